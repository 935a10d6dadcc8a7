"""What memories learn in context, beside linear attention, DeltaNet and a Transformer."""
