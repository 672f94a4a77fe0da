"""What tierdeck writes for other programs: starters for service managers."""
