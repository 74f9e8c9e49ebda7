// The worker's path from kick to call allocates nothing, as the parts below it do not. That holds for the optimised
// build, which is what serves; in a debug build the compiler may box what it likes, so there only the counting itself
// is tested.
import CountAllocations
import Foundation
import TestKit
import Testing
import VhostUserBlk
import VhostUserFrontend
import Virtqueue
import VirtqueueMock
import SystemPackage

@Suite(
    .enabled(if: qblk_counts_allocations() != 0, "needs a build without sanitizer"), .serialized)
struct AllocationTests {
    /// Other tests' workers live in this process, too. No other test has so many that there is one of this number.
    private static let number = 11

    /// The thread that carries the last queue.
    private func worker() throws -> Int32 {
        for task in try FileManager.default.contentsOfDirectory(atPath: "/proc/self/task") {
            let name = try? String(contentsOfFile: "/proc/self/task/\(task)/comm", encoding: .utf8)
            if name == "qblk-worker-\(Self.number)\n", let id = Int32(task) { return id }
        }
        throw TestFailure("there is no such worker")
    }

    @Test(arguments: Rings.allCases, PollMode.allCases)
    func aRequestAllocatesNothing(rings: Rings, poll: PollMode) throws {
        // A busy worker of each number would leave no processor to this test.
        guard poll != .busy else { return }
        let served = try Served(workers: Self.number + 1, poll: poll)
        let socket = try served.disk(queues: Self.number + 1)
        var options = rings.options
        options.memory = [(0, 8 << 20), (0x1_0000_0000, 4 << 20)]
        let frontend = try VhostUserFrontend.connect(FilePath(socket), options)
        let queueDrivers = try (0...Self.number).map { _ in try QueueDriver(frontend) }
        try frontend.start()
        let queueDriver = queueDrivers[Self.number]
        let thread = try worker()
        var style = LoadStyle()
        style.depth = 8
        style.segments = 30
        style.flushes = false
        let load = Load(
            [queueDriver], arena: 0x1_0000_0000, content: try Files.bytes(served.path("disk0.raw")), style: style)
        // The first requests fill caches and make what is made once.
        load.run(1500)
        load.drain()
        let before = qblk_allocations_of(thread)
        #expect(before > 0, "the worker's setting up is not counted: nothing is measured")
        load.run(1500)
        load.drain()
        #expect(load.failure == nil)
        let total = qblk_allocations_of(thread) - before
        #if DEBUG
            _ = total
        #else
            #expect(total == 0)
        #endif
    }
}
