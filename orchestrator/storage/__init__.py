"""The store of a study: what it holds, who may write, what may go."""
