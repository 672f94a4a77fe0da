"""What the router's table is learned from: prompts of our own, and the learner; nothing of it runs in tierdeck."""
