"""The same step and metrics in a LightningModule."""
