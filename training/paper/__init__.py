"""The experiments of Phuong & Lampert (2019), beside the numbers they published."""
