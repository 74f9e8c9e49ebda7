// The benchmark as a whole, from a path to a report: finds out what the path is, refuses to destroy data without
// permission, and runs a thread for each queue.
public import DiskTypes
import Glibc
import ImageChain
import LinuxIO
public import SystemPackage
import VhostUserFrontend
import Virtqueue

/// Measures a vhost-user socket, a block device, or an image.
///
///     var options = BenchOptions()
///     options.depth = 128
///     let report = try BlockBench.run("/run/disk.sock", options)
///     print(report.iops, report.latency.p99)
public enum BlockBench {
    /// Runs the benchmark on the disk at `path`. `isCancelled` is asked every few milliseconds; true ends the run
    /// early, and the report says so. Throws `.unsupported` for options out of range, writes without `destroy` or on a
    /// read-only disk, `.notFound` for a disk that is too small, the errors of opening an image, and `.system` for a
    /// back-end that fails. A mismatch is no error: the report has it.
    public static func run(
        _ path: FilePath, _ options: BenchOptions, isCancelled: @escaping () -> Bool = { false }
    ) throws(ImageError) -> BenchReport {
        if let problem = options.problem { throw ImageError(.unsupported, problem) }
        do {
            return try measured(path, options, isCancelled)
        } catch let error as ImageError {
            throw error.named(path)
        } catch let error as FrontendError {
            throw ImageError(.system, "\(error)", path: path)
        } catch {
            throw ImageError(.system, "\(error)", path: path)
        }
    }

    private static func measured(
        _ path: FilePath, _ options: BenchOptions, _ isCancelled: @escaping () -> Bool
    ) throws -> BenchReport {
        if options.pattern.writes, !options.destroy {
            throw ImageError(
                .unsupported, "\(options.pattern) overwrites what is on the disk",
                advice: "allow that with --destroy, or measure reads")
        }
        if isSocket(path) { return try socket(path, options, isCancelled) }
        return try file(path, options, isCancelled)
    }

    private static func isSocket(_ path: FilePath) -> Bool {
        path.fileType == S_IFSOCK
    }

    // MARK: targets

    private static func socket(
        _ path: FilePath, _ options: BenchOptions, _ isCancelled: @escaping () -> Bool
    ) throws -> BenchReport {
        let size = SlotRing.size(depth: options.depth, isIndirect: true)
        let widest = SlotRing.size(depth: options.depth, isIndirect: false)
        var wish = FrontendOptions()
        wish.packed = options.packed
        wish.queueSize = size
        let each = SlotRing.bytes(depth: options.depth, blockBytes: options.blockBytes, size: widest)
        wish.memory = [(0x1_0000_0000, (each * options.queues + 0x1f_ffff) & ~0x1f_ffff)]
        let frontend = try VhostUserFrontend.connect(path, wish)
        let hasIndirect = frontend.ringFeatures.contains(.indirect)
        if options.packed, !hasIndirect { throw FrontendError.lacks("indirect descriptors, which --packed needs") }
        guard options.queues <= frontend.maxQueues else {
            throw ImageError(
                .unsupported, "the back-end has \(frontend.maxQueues) queues",
                advice: "ask for no more, or start it with more")
        }
        if options.pattern.writes, frontend.features & VirtioBlk.Feature.readOnly != 0 {
            throw ImageError(.unsupported, "the disk is read-only", advice: "measure reads")
        }
        let length = try frontend.capacity()
        let ways = try (0..<options.queues).map { _ in
            guard
                let ring = SlotRing(
                    frontend.memory.guest, depth: options.depth, blockBytes: options.blockBytes,
                    features: frontend.ringFeatures, size: hasIndirect ? size : widest)
            else { throw FrontendError.memoryFull }
            let queue = VhostQueue(
                ring, try frontend.addQueue(ring.areas), sleeps: options.wait == .interrupt,
                hasFlush: frontend.features & VirtioBlk.Feature.flush != 0)
            return BenchTransport.socket(VhostQueueMaker(queue: queue))
        }
        try frontend.start()
        let rings = options.packed ? "packed ring" : "split ring"
        let run = BenchRun(options, way: "vhost-user, \(rings)", length: length, server: frontend.connection.peer)
        let watch = BenchWatch(isCancelled: isCancelled, isGone: { frontend.connection.isClosed() })
        let report = try run.go(ways, watch)
        // A back-end that fails to stop is a failure, too; one that has gone is named as such.
        try frontend.stop()
        return report
    }

    private static func file(
        _ path: FilePath, _ options: BenchOptions, _ isCancelled: @escaping () -> Bool
    ) throws -> BenchReport {
        var open = options.open
        open.writable = options.pattern.writes
        open.format = try ImageFormat.required(open.format, path: path, readOnly: !open.writable)
        // Also a raw disk is opened as a chain: that takes the locks, and refuses what is no disk.
        let chain = try ImageChain.open(path: path, options: open)
        let watch = BenchWatch(isCancelled: isCancelled, isGone: { false })
        guard let top = chain.layers.first, top.format == .raw else {
            let run = BenchRun(options, way: "qcow2, qblk's engine", length: chain.size, server: nil)
            let maker = ImageQueueMaker(chain: chain, depth: options.depth, blockBytes: options.blockBytes)
            return try run.go(Array(repeating: .image(maker), count: options.queues), watch)
        }
        let data = chain.files[Int(top.dataFile)]
        let isDirect = open.direct && data.directFD >= 0 && options.blockBytes % data.directOffsetAlignment == 0
        let kind = data.isBlockDevice ? "block device" : "raw file"
        let run = BenchRun(
            options, way: "\(kind), io_uring, \(isDirect ? "direct" : "page cache")", length: data.length, server: nil)
        let maker = FileQueueMaker(
            file: data, direct: isDirect, depth: options.depth, blockBytes: options.blockBytes)
        let report = try run.go(Array(repeating: .file(maker), count: options.queues), watch)
        // The chain lives until here: the locks belong to its files.
        return withExtendedLifetime(chain) { report }
    }
}

/// One run over several threads, one for each queue.
private struct BenchRun {
    let options: BenchOptions
    let way: String
    let length: UInt64
    let server: Int32?

    init(_ options: BenchOptions, way: String, length: UInt64, server: Int32?) {
        self.options = options
        self.way = way
        self.length = length
        self.server = server
    }

    func go(_ ways: [BenchTransport], _ watch: BenchWatch) throws -> BenchReport {
        let blocks = try options.blocks(of: length)
        let gate = StartBarrier()
        let count = ways.count
        var threads: [StartedThread] = []
        for (index, way) in ways.enumerated() {
            let share = options.requests.map { $0 / UInt64(count) + (UInt64(index) < $0 % UInt64(count) ? 1 : 0) }
            let work = BenchThread(
                way: way, options: options, blocks: blocks, index: index, limit: share ?? .max, gate: gate)
            threads.append(StartedThread(try WorkerThread.start("bench-\(index)", work)))
        }
        gate.awaitAll(count, watch)
        let before = server.flatMap { BenchClock.processCPU($0) }
        let end = BenchClock.now() &+ UInt64(options.seconds * 1e9)
        gate.open(.measuring, until: gate.firstTrouble == nil ? end : 0)
        gate.awaitAll(count, watch)
        let after = server.flatMap { BenchClock.processCPU($0) }
        let wasInterrupted = watch.isCancelled()
        gate.open(.readingBack, until: 0)
        gate.awaitEnd(count, watch)
        // The files that the threads hold, and the locks on these, end with them.
        for thread in threads { thread.join() }
        return try report(gate, server: (before, after), wasInterrupted)
    }

    private func report(
        _ gate: StartBarrier, server times: (UInt64?, UInt64?), _ wasInterrupted: Bool
    ) throws -> BenchReport {
        var report = BenchReport()
        report.way = way
        report.options = options
        report.size = try options.blocks(of: length) * UInt64(options.blockBytes)
        report.wasInterrupted = wasInterrupted
        var latencies = LatencyHistogram()
        defer { latencies.free() }
        var first = UInt64.max
        var last: UInt64 = 0
        for one in gate.allOutcomes {
            if one.errors > 0 {
                if report.errors == 0 { report.firstError = one.firstError }
                report.lastError = one.lastError
            }
            report.reads += one.reads
            report.writes += one.writes
            report.flushes += one.flushes
            report.errors += one.errors
            report.checked += one.checked
            report.clientCPU += Double(one.cpu) / 1e9
            latencies.add(one.latencies)
            one.latencies.free()
            first = min(first, one.began)
            last = max(last, one.ended)
        }
        report.seconds = last > first ? Double(last - first) / 1e9 : 0
        report.latency = latencies.summary
        if let before = times.0, let after = times.1, after >= before {
            report.serverCPU = Double(after - before) / 1e9
            report.serverPID = server
        }
        try judge(gate.firstTrouble, &report)
        return report
    }

    /// A mismatch becomes part of the report; any other error is thrown, because there is nothing to report.
    private func judge(_ trouble: BenchError?, _ report: inout BenchReport) throws {
        switch trouble {
        case nil: return
        case .mismatch(let place): report.mismatch = place
        case .gone: throw FrontendError.disconnected(nil)
        case .breakage(let what): throw ImageError(.system, what)
        case .silence(let seconds, let inFlight):
            throw ImageError(.system, "\(inFlight) requests were not answered for \(seconds) seconds")
        case .flushFailed: throw ImageError(.system, "a flush failed")
        case .noFlush: throw ImageError(.unsupported, "the disk takes no flushes", advice: "leave out --flush-every")
        case .noQueue(let error): throw error
        }
    }
}
