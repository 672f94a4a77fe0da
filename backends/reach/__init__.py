"""How a machine is touched: commands, Docker and native services, locally or over the node's one SSH connection."""
