"""First stages: strong and easy models whose cross-fitted answer the network adds to and reads."""
