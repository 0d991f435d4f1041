"""The Open Inference Protocol over gRPC: `/v2` in other bytes."""
