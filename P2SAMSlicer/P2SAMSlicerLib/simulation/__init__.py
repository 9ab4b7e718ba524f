"""A follow-up with exactly known truth, made out of any CT and contour; for the demo, commissioning, training and measuring."""
