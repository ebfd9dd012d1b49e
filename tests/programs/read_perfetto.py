"""A Perfetto trace, decoded by Perfetto's own messages and played as its importer plays it: JSON.

Slices of a track are a stack; an end closes the slice that began last.
"""

import collections
import json
import sys

from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as proto

trace = proto.Trace()
trace.ParseFromString(open(sys.argv[1], "rb").read())
tracks, events, clocks = {}, [], []
for at, packet in enumerate(trace.packet):
    assert packet.trusted_packet_sequence_id
    if packet.HasField("clock_snapshot"):
        snapshot = packet.clock_snapshot
        clocks.append((snapshot.primary_trace_clock, [clock.clock_id for clock in snapshot.clocks]))
    if packet.HasField("track_descriptor"):
        track = packet.track_descriptor
        assert not track.parent_uuid or track.parent_uuid in tracks, track
        tracks.setdefault(track.uuid, []).append(track)
    if packet.HasField("track_event"):
        event = packet.track_event
        assert clocks and packet.timestamp_clock_id == clocks[0][0], packet
        assert event.track_uuid in tracks, event
        events.append((packet.timestamp, at, event))

# The importer sorts by time, and keeps the order of the file where times are the same.
events.sort(key=lambda event: event[:2])
open_, flows, ended = collections.defaultdict(list), set(), set()
slices, instants, counters = [], collections.Counter(), collections.defaultdict(list)
calls = collections.Counter()
for time, _, event in events:
    track, kind = event.track_uuid, event.type
    for flow in event.flow_ids:
        assert flow not in flows, event
        flows.add(flow)
        calls[event.name] += 1
    for flow in event.terminating_flow_ids:
        assert flow in flows and flow not in ended, event
        ended.add(flow)
    if kind == proto.TrackEvent.TYPE_SLICE_BEGIN:
        open_[track].append((time, event))
    elif kind == proto.TrackEvent.TYPE_SLICE_END:
        begin, began = open_[track].pop()
        slices.append((began.categories[0], began.name, time - begin))
    elif kind == proto.TrackEvent.TYPE_INSTANT:
        instants[event.name] += 1
    else:
        counters[track].append(event.counter_value)

# A counter begins anew at each fork.
copied = collections.Counter()
for track, values in counters.items():
    role = tracks[track][0].name.split(",")[0]
    copied[role] += sum(a for a, b in zip(values, values[1:] + [0]) if b == 0)

processes = [t for t in tracks.values() if t[0].HasField("process")]
name = lambda track: next((d.process.process_name for d in track if d.process.process_name), None)
print(
    json.dumps(
        {
            "packets": len(trace.packet),
            "clocks": clocks,
            "calls": calls,
            "flows": len(flows),
            "flows_ended": len(ended),
            "open": sum(map(len, open_.values())),
            "lives": sum(1 for category, _, _ in slices if category == "process"),
            "programs": collections.Counter(n for c, n, _ in slices if c == "program"),
            "instants": instants,
            "copied": copied,
            "processes": len(processes),
            "unnamed": sum(1 for track in processes if not name(track)),
        }
    )
)
