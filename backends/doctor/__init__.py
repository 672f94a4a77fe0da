"""What keeps tierdeck from doing its work, here and on each node, and what to do about it; changes nothing."""
