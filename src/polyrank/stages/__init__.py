"""First stages: strong and easy models, cross-fitted, to whose logits the network adds its own."""
