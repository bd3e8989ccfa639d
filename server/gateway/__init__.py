"""The HTTP door: REST derived from `google.api.http` rules, calling the same dispatcher as gRPC, in process or over a channel."""
