"""Adapting a SAM-shaped model to CT: the paper's interactive training (section 3.3, appendix B) with this product's prompts."""
