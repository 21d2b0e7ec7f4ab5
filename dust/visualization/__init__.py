"""What people look at: figures, TensorBoard, Weights & Biases."""
