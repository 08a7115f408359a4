"""A trace collector. It prints its port, and then each span that it receives as one line of JSON."""

import json
from concurrent import futures

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc


def plain(attributes):
    return {one.key: getattr(one.value, one.value.WhichOneof("value") or "string_value") for one in attributes}


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    def Export(self, request, context):
        headers = {one.key: one.value for one in context.invocation_metadata()}
        for of_resource in request.resource_spans:
            resource = plain(of_resource.resource.attributes)
            for of_scope in of_resource.scope_spans:
                for span in of_scope.spans:
                    record = {
                        "resource": resource,
                        "headers": headers,
                        "trace": span.trace_id.hex(),
                        "span": span.span_id.hex(),
                        "parent": span.parent_span_id.hex(),
                        "state": span.trace_state,
                        "name": span.name,
                        "kind": span.kind,
                        "status": span.status.code,
                        "took": span.end_time_unix_nano - span.start_time_unix_nano,
                        "links": [link.span_id.hex() for link in span.links],
                        "attributes": plain(span.attributes),
                        "events": [event.name for event in span.events],
                    }
                    print(json.dumps(record), flush=True)
        return trace_service_pb2.ExportTraceServiceResponse()


server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Collector(), server)
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
server.wait_for_termination()
