"""The page that scores recordings in a browser: it lies beside `model.onnx` and needs onnxruntime-web and nothing else."""
