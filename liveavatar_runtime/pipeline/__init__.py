"""Several devices that sample one video together: the order of their work, its proof, stages, links, threads."""
