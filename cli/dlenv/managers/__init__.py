"""What builds an environment: uv, the conda family, or in place on Colab and Kaggle."""
