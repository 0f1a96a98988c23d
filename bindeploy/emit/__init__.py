"""A converted model to files: the portable ONNX file and the plan that the runtime loads."""
