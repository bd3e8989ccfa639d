"""The gRPC door: the server and one servicer a proto service. The only place that turns protobuf into domain values and back."""
