"""Everything that leaves this machine: targets, cross compiler, bundles, ONNX."""
