"""A small library service for gateway tests: one proto with every kind of field and rule, compiled to a descriptor set of its own pool."""

from __future__ import annotations

import tempfile
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from google.api import annotations_pb2
from google.protobuf.message_factory import GetMessageClass
from grpc_tools import protoc

from server.gateway.descriptors import Described, load_set

PROTO = """
syntax = "proto3";
package library.v1;

import "google/api/annotations.proto";
import "google/api/httpbody.proto";
import "google/protobuf/any.proto";
import "google/protobuf/duration.proto";
import "google/protobuf/empty.proto";
import "google/protobuf/field_mask.proto";
import "google/protobuf/struct.proto";
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";

// Lends books.
service Library {
  // Returns a book.
  rpc GetBook(GetBookRequest) returns (Book) {
    option (google.api.http) = {
      get: "/v1/{name=shelves/*/books/*}"
      additional_bindings { get: "/v1/books/{name}" }
    };
  }
  // Lists books of a shelf.
  rpc ListBooks(ListBooksRequest) returns (ListBooksResponse) {
    option (google.api.http) = {get: "/v1/{parent=shelves/*}/books"};
  }
  // Lists titles only.
  rpc ListTitles(ListBooksRequest) returns (ListBooksResponse) {
    option (google.api.http) = {get: "/v1/{parent=shelves/*}/titles" response_body: "titles"};
  }
  // Creates a book.
  rpc CreateBook(CreateBookRequest) returns (Book) {
    option (google.api.http) = {post: "/v1/{parent=shelves/*}/books" body: "book"};
  }
  // Changes a book.
  rpc UpdateBook(UpdateBookRequest) returns (Book) {
    option (google.api.http) = {
      patch: "/v1/{book.name=shelves/*/books/*}" body: "book"
      additional_bindings { put: "/v1/{book.name=shelves/*/books/*}" body: "book" }
    };
  }
  // Echoes everything.
  rpc Echo(Everything) returns (Everything) {
    option (google.api.http) = {
      post: "/v1/echo" body: "*"
      additional_bindings { get: "/v1/echo" }
      additional_bindings { post: "/v1/echo:nested" body: "child" }
      additional_bindings { post: "/v1/{string_field=files/**}:echo" body: "*" }
    };
  }
  // Archives.
  rpc Archive(GetBookRequest) returns (google.protobuf.Empty) {
    option (google.api.http) = {post: "/v1/{name=shelves/*/books/*}:archive" body: "*"};
  }
  // Uploads a cover.
  rpc Upload(UploadRequest) returns (google.api.HttpBody) {
    option (google.api.http) = {post: "/v1/{name=shelves/*/books/*}/cover" body: "cover"};
  }
  // Reads books aloud.
  rpc Watch(GetBookRequest) returns (stream Book) {
    option (google.api.http) = {get: "/v1/{name=shelves/*/books/*}:watch"};
  }
  // Fails as it is told.
  rpc Fail(Everything) returns (Book) {
    option (google.api.http) = {post: "/v1/fail" body: "*"};
  }
  // Has no HTTP rule.
  rpc Hidden(google.protobuf.Empty) returns (google.protobuf.Empty);
}

// What is read.
message Book {
  // Path of the book.
  string name = 1;
  string title = 2;
  Author author = 3;
  repeated string tags = 4;
  google.protobuf.Timestamp create_time = 5;
  google.protobuf.Struct attributes = 6;
  int64 page_count = 7;
}
message Author { string display_name = 1; optional int32 birth_year = 2; }
message GetBookRequest { string name = 1; }
message ListBooksRequest { string parent = 1; int32 page_size = 2; string filter = 3; Kind kind = 4; Book example = 5; }
message ListBooksResponse { repeated Book books = 1; repeated string titles = 2; string next_page_token = 3; }
message CreateBookRequest { string parent = 1; Book book = 2; string book_id = 3; }
message UpdateBookRequest { Book book = 1; google.protobuf.FieldMask update_mask = 2; bool allow_missing = 3; }
message UploadRequest { string name = 1; google.api.HttpBody cover = 2; }

enum Kind { KIND_UNSPECIFIED = 0; NOVEL = 1; ESSAY = 2; }

// Every kind of field.
message Everything {
  int32 int32_field = 1;
  int64 int64_field = 2;
  uint32 uint32_field = 3;
  uint64 uint64_field = 4;
  sint32 sint32_field = 5;
  sint64 sint64_field = 6;
  fixed32 fixed32_field = 7;
  fixed64 fixed64_field = 8;
  sfixed32 sfixed32_field = 9;
  sfixed64 sfixed64_field = 10;
  float float_field = 11;
  double double_field = 12;
  bool bool_field = 13;
  string string_field = 14;
  bytes bytes_field = 15;
  Kind kind = 16;
  Everything child = 17;
  repeated int32 many_int32 = 18;
  repeated int64 many_int64 = 19;
  repeated float many_float = 20;
  repeated double many_double = 21;
  repeated string many_string = 22;
  repeated bytes many_bytes = 23;
  repeated Kind many_kind = 24;
  repeated Everything children = 25;
  map<string, string> string_map = 26;
  map<int64, int32> long_map = 27;
  map<bool, Kind> bool_map = 28;
  map<string, Everything> child_map = 29;
  oneof choice { string first = 30; int32 second = 31; Author third = 32; google.protobuf.NullValue fourth = 47; }
  optional string optional_string = 33;
  optional double optional_double = 34;
  google.protobuf.Timestamp time = 35;
  google.protobuf.Duration duration = 36;
  google.protobuf.FieldMask mask = 37;
  google.protobuf.Struct struct = 38;
  google.protobuf.Value value = 39;
  google.protobuf.ListValue list = 40;
  google.protobuf.Any any = 41;
  google.protobuf.StringValue string_wrapper = 42;
  google.protobuf.Int64Value long_wrapper = 43;
  google.protobuf.BoolValue bool_wrapper = 44;
  google.protobuf.DoubleValue double_wrapper = 45;
  google.protobuf.BytesValue bytes_wrapper = 46;
  google.protobuf.FloatValue float_wrapper = 48;
  repeated google.protobuf.Timestamp times = 49;
  repeated google.protobuf.Value values = 50;
  map<string, google.protobuf.Value> value_map = 51;
  map<string, float> float_map = 52;
  map<string, bytes> bytes_map = 53;
  google.protobuf.Empty empty = 54;
  string from = 55;
  string odd_name = 56 [json_name = "strange-name"];
  repeated bool many_bool = 57;
}
"""


def compile_proto(text: str, *flags: str) -> bytes:
    """Returns the descriptor set of a proto file, with comments; `flags` go to protoc."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "test.proto").write_text(text)
        includes = [folder, str(files("grpc_tools") / "_proto"), str(Path(annotations_pb2.__file__).parents[2])]
        target = Path(folder) / "set.binpb"
        command = [
            "protoc",
            *(f"-I{path}" for path in includes),
            "--include_source_info",
            *flags,
            f"--descriptor_set_out={target}",
            "test.proto",
        ]
        assert protoc.main(command) == 0
        return target.read_bytes()


@lru_cache(maxsize=1)
def library_set() -> bytes:
    """The library's descriptor set."""
    return compile_proto(PROTO, "--include_imports")


@lru_cache(maxsize=1)
def library() -> Described:
    """The library's descriptors, in a pool of their own."""
    return load_set(library_set())


def message(name: str, /, **fields: Any) -> Any:
    """Returns a message of the library, such as `message("Book", title="Emma")`."""
    return GetMessageClass(library().pool.FindMessageTypeByName(f"library.v1.{name}"))(**fields)
