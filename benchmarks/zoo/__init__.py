"""Small trained models on which int8 is judged: five transformers, and CNNs and RNNs of every common block."""
