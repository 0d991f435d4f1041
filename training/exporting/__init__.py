"""A checkpoint becomes a bundle: graphs, 8 bits, calibration, certificates, what is written."""
