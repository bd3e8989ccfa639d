"""AWS Personalize, runtime and events, as its SDKs speak it."""
