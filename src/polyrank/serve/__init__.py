"""From a bundle to answers in production: export with parity, an engine without torch, HTTP."""
