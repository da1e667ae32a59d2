"""The page that scores recordings in a browser; it is placed beside `model.onnx` and needs only onnxruntime-web."""
