"""What single parts of the machinery cost, beside the parts of others."""
