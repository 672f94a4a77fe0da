"""LiteLLM's configuration: rendered from the inventory, checked, and compared."""
