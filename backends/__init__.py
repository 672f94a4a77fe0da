"""The world outside: everything that is measured, asked or changed, without a screen."""
