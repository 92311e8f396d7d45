"""From a bundle to ONNX files that answer as it does; the only part of serving that needs torch."""
