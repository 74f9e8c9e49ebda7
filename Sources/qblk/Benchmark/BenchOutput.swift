// A report of `qblk bench` in its two forms, with the same numbers in both.

import BlockBench
import DiskTypes
import Glibc
import ImageOperations
import SystemPackage
import LinuxIO

extension BenchReport {
    var lastErrorText: String { unsafe String(cString: strerror(lastError)) }

    func text(_ target: FilePath) -> String {
        var lines = ["\(target): \(way), \(work)"]
        lines.append(row("requests", "\(requests) in \(fixed(seconds, 2)) s (\(reads) reads, \(writes) writes)"))
        lines.append(row("IOPS", "\(UInt64(iops.rounded()))"))
        lines.append(row("MiB/s", fixed(mebibytes, 1)))
        lines.append(
            row(
                "latency, us",
                "min \(us(Double(latency.minimum))), mean \(us(latency.mean)), p50 \(us(Double(latency.p50))), "
                    + "p90 \(us(Double(latency.p90))), p99 \(us(Double(latency.p99))), "
                    + "p99.9 \(us(Double(latency.p999))), max \(us(Double(latency.maximum)))"))
        lines.append(
            row("client CPU", "\(fixed(clientCPU, 2)) s, \(fixed(clientMicroseconds, 3)) us a request"))
        if options.flushEvery != nil { lines.append(row("flushes", "\(flushes)")) }
        if let serverCPU, let serverMicroseconds, let serverPID {
            let cost = "\(fixed(serverCPU, 2)) s, \(fixed(serverMicroseconds, 3)) us a request"
            lines.append(row("server CPU", "\(cost) (process \(serverPID))"))
        }
        if options.verify { lines.append(row("checked", "\(checked) blocks\(mismatch == nil ? ", all right" : "")")) }
        lines.append(row("errors", "\(errors)"))
        return lines.joined(separator: "\n") + "\n"
    }

    /// As in `4 KiB randread, depth 128, 2 queues`.
    private var work: String {
        let block = options.blockBytes % 1024 == 0 ? "\(options.blockBytes / 1024) KiB" : "\(options.blockBytes) bytes"
        return
            "\(block) \(options.pattern), depth \(options.depth), \(options.queues) queue\(options.queues == 1 ? "" : "s")"
    }

    private func row(_ name: String, _ value: String) -> String {
        "  " + name + String(repeating: " ", count: max(14 - name.utf8.count, 1)) + value
    }
    private func us(_ nanoseconds: Double) -> String { fixed(nanoseconds / 1000, 1) }

    /// All numbers are integers: nanoseconds, thousandths, or whole requests.
    func json(_ target: FilePath) -> JSONValue {
        .members([
            "target": .path(target), "way": .string(way), "rw": .string(options.pattern.rawValue),
            "bs": .number(options.blockBytes), "iodepth": .number(options.depth), "queues": .number(options.queues),
            "wait": .string(options.wait.rawValue), "packed": .bool(options.packed), "seed": .unsigned(options.seed),
            "size": .unsigned(size), "runtime-ns": .unsigned(UInt64(seconds * 1e9)), "requests": .unsigned(requests),
            "reads": .unsigned(reads), "writes": .unsigned(writes), "iops": .unsigned(UInt64(iops.rounded())),
            "bytes-per-second": .unsigned(UInt64(iops * Double(options.blockBytes))),
            "latency-ns": .members([
                "min": .unsigned(latency.minimum), "mean": .unsigned(UInt64(latency.mean.rounded())),
                "p50": .unsigned(latency.p50), "p90": .unsigned(latency.p90), "p99": .unsigned(latency.p99),
                "p99.9": .unsigned(latency.p999), "max": .unsigned(latency.maximum),
            ]),
            "client-cpu-ns": .unsigned(UInt64(clientCPU * 1e9)),
            "client-cpu-ns-per-request": .unsigned(UInt64((clientMicroseconds * 1000).rounded())),
            "server-cpu-ns": serverCPU.map { .unsigned(UInt64($0 * 1e9)) },
            "server-cpu-ns-per-request": serverMicroseconds.map { .unsigned(UInt64(($0 * 1000).rounded())) },
            "server-pid": serverPID.map { .number(Int($0)) },
            "flushes": options.flushEvery == nil ? nil : .unsigned(flushes),
            "errors": .unsigned(errors),
            "checked": options.verify ? .unsigned(checked) : nil,
            "mismatch": mismatch.map {
                .members(["offset": .unsigned($0.offset), "text": .string("\($0)")])
            },
            "interrupted": .bool(wasInterrupted),
        ])
    }
}

/// As in `12.3`. Foundation, which could do this, would double the size of the program.
private func fixed(_ value: Double, _ digits: Int) -> String {
    let scale = (0..<digits).reduce(1.0) { product, _ in product * 10 }
    let whole = UInt64(max(value * scale, 0).rounded())
    let unit = UInt64(scale)
    guard digits > 0 else { return "\(whole)" }
    let fraction = String(whole % unit)
    return "\(whole / unit)." + String(repeating: "0", count: digits - fraction.utf8.count) + fraction
}
