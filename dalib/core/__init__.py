"""The training engine and what plugins are written against: strategies, steps, critics, the teacher."""
