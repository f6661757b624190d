"""The `onnx` target: the integers as ONNX models, run by ONNX Runtime."""
