"""What the cluster is (inventory) and how it is (snapshot): pure data and pure rules."""
