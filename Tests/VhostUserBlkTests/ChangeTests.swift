// Everything that a front-end may change while requests are in flight: rings stop and start, memory comes, moves and
// goes, the kick descriptor is another. No request may notice.
import DiskTypes
import Foundation
import LinuxIO
import TestKit
import Testing
import VhostUserBlk
import VhostUserFrontend
import VhostUserWire
import Virtqueue
import VirtqueueMock
import SystemPackage

/// A raw disk under load in this process.
private final class Loaded {
    let served: Served
    let path: String
    let frontend: VhostUserFrontend
    let load: Load

    init(
        _ rings: Rings, queues: Int = 2, poll: PollMode = .adaptive, change: (inout FrontendOptions) -> Void = { _ in }
    )
        throws
    {
        served = try Served(workers: 2, poll: poll)
        path = served.path("disk0.raw")
        let socket = try served.disk(queues: queues)
        var options = rings.options
        options.protocolFeatures.insert(.configureMemorySlots)
        let style = LoadStyle()
        options.memory = [(0, 8 << 20), (0x1_0000_0000, Load.room(queueDrivers: queues, style))]
        change(&options)
        frontend = try VhostUserFrontend.connect(FilePath(socket), options)
        let frontend = frontend
        let queueDrivers = try (0..<queues).map { _ in try QueueDriver(frontend) }
        try frontend.start()
        load = Load(queueDrivers, arena: 0x1_0000_0000, content: try Files.bytes(path), style: style)
    }

    func expectSound() throws {
        load.drain()
        #expect(load.failure == nil)
        try frontend.stop()
        #expect(load.matches(try Files.bytes(path)), "seed \(load.seed)")
    }
}

@Suite("Changes under load")
struct ChangeTests {
    @Test(arguments: Rings.allCases)
    func ringsStopAndStart(rings: Rings) throws {
        let loaded = try Loaded(rings)
        for round in 0..<60 {
            loaded.load.run(10 + loaded.load.below(40))
            loaded.load.fill()
            let queue = loaded.load.queueDrivers[round % 2].queue
            try loaded.frontend.stop(queue)
            // Drained: nothing more comes from this ring.
            loaded.load.collect()
            let base = loaded.load.queueDrivers[round % 2].driver
            if !rings.isPacked { #expect(queue.base == base.resumePosition) }
            try loaded.frontend.start(queue)
            queue.kick.signal()
        }
        try loaded.expectSound()
    }

    @Test(arguments: Rings.both)
    func ringsAreDisabledAndEnabled(rings: Rings) throws {
        let loaded = try Loaded(rings)
        for round in 0..<60 {
            loaded.load.run(10 + loaded.load.below(40))
            loaded.load.fill()
            let index = UInt32(round % 2)
            try loaded.frontend.ask(.setVringEnable, VringState(index: index, num: 0))
            loaded.load.collect()
            loaded.load.fill()
            try loaded.frontend.ask(.setVringEnable, VringState(index: index, num: 1))
        }
        try loaded.expectSound()
    }

    @Test(arguments: Rings.both)
    func theMemoryTableIsReplaced(rings: Rings) throws {
        let loaded = try Loaded(rings)
        for _ in 0..<60 {
            loaded.load.run(10 + loaded.load.below(40))
            loaded.load.fill()
            try loaded.frontend.ask(
                .setMemoryTable, MemoryTable(loaded.frontend.memory.regions),
                descriptors: loaded.frontend.memory.descriptors)
        }
        try loaded.expectSound()
    }

    @Test(arguments: Rings.both)
    func regionsComeAndGo(rings: Rings) throws {
        let loaded = try Loaded(rings) { $0.oneRegionAtATime = true }
        let more = try FrontendMemory([(0x8000_0000, 1 << 20), (0x9000_0000, 2 << 20)])
        for _ in 0..<30 {
            for (region, fd) in zip(more.regions, more.descriptors) {
                loaded.load.run(10 + loaded.load.below(40))
                loaded.load.fill()
                try loaded.frontend.ask(.addMemoryRegion, SingleRegion(region), descriptors: [fd])
            }
            for region in more.regions {
                loaded.load.run(10)
                loaded.load.fill()
                try loaded.frontend.ask(.removeMemoryRegion, SingleRegion(region))
            }
        }
        try loaded.expectSound()
    }

    @Test func aTableWithoutARunningRingIsRefusedAndTheOldOneStays() throws {
        let loaded = try Loaded(.splitEvent)
        let other = try FrontendMemory([(0x1_0000_0000, 4 << 20)])
        for _ in 0..<5 {
            loaded.load.run(50)
            loaded.load.fill()
            #expect(throws: FrontendError.refused(.setMemoryTable, 1)) {
                try loaded.frontend.ask(.setMemoryTable, MemoryTable(other.regions), descriptors: other.descriptors)
            }
            let rings = loaded.frontend.memory.regions[0]
            #expect(throws: FrontendError.refused(.removeMemoryRegion, 1)) {
                try loaded.frontend.ask(.removeMemoryRegion, SingleRegion(rings))
            }
        }
        try loaded.expectSound()
    }

    @Test(arguments: Rings.both)
    func theKickAndCallDescriptorsAreOthers(rings: Rings) throws {
        let loaded = try Loaded(rings)
        let fds = try (0..<4).map { _ in Holder(try EventFD()) }
        for round in 0..<60 {
            loaded.load.run(10 + loaded.load.below(20))
            loaded.load.fill()
            let queue = loaded.load.queueDrivers[round % 2].queue
            let event = VringEvent(index: UInt32(queue.index))
            // Through another one and back: what was signalled on the old one must not be lost.
            try loaded.frontend.ask(.setVringKick, event, descriptors: [fds[round % 4].event.raw])
            try loaded.frontend.ask(.setVringCall, event, descriptors: [fds[(round + 1) % 4].event.raw])
            loaded.load.fill()
            try loaded.frontend.ask(.setVringCall, event, descriptors: [queue.call.raw])
            try loaded.frontend.ask(.setVringKick, event, descriptors: [queue.kick.raw])
            queue.kick.signal()
        }
        try loaded.expectSound()
    }

    /// Descriptors of rings that are about to be replaced can be in arrays only in boxes.
    private final class Holder {
        let event: EventFD
        init(_ event: consuming EventFD) { self.event = event }
    }
}

@Suite(
    "Memory that is given back", .disabled(if: DiskServer.isPeer || DiskServer.missing != nil, "\(Tools.qblkReason)"))
struct UnmapTests {
    /// Mappings of guest memory that a process has.
    private func mappings(_ pid: Int32) throws -> Int {
        let text = String(decoding: FileManager.default.contents(atPath: "/proc/\(pid)/maps") ?? Data(), as: UTF8.self)
        guard !text.isEmpty else { throw TestFailure("no maps of \(pid)") }
        return text.split(separator: "\n").count { $0.contains("memfd:qblk-guest") }
    }

    @Test func theOldMappingIsGoneAfterEachChange() throws {
        let program = try Program()
        var options = FrontendOptions()
        options.protocolFeatures.insert(.configureMemorySlots)
        let (frontend, load) = try program.load(options, queues: 1, style: LoadStyle())
        let pid = try #require(frontend.connection.peer)
        #expect(try mappings(pid) == 2)
        let more = try FrontendMemory([(0x8000_0000, 1 << 20)])
        for _ in 0..<20 {
            load.run(20)
            load.fill()
            let (table, fds) = (frontend.memory.regions, frontend.memory.descriptors)
            try frontend.ask(.setMemoryTable, MemoryTable(table), descriptors: fds)
            #expect(try mappings(pid) == 2)
            try frontend.ask(.addMemoryRegion, SingleRegion(more.regions[0]), descriptors: more.descriptors)
            #expect(try mappings(pid) == 3)
            try frontend.ask(.removeMemoryRegion, SingleRegion(more.regions[0]))
            #expect(try mappings(pid) == 2)
        }
        load.drain()
        #expect(load.failure == nil)
        frontend.connection.shutDown()
        let end = Date(timeIntervalSinceNow: 10)
        while try mappings(pid) > 0, Date() < end { usleep(10_000) }
        #expect(try mappings(pid) == 0)
    }

    /// Requests whose buffers are in a region that goes: each is served from it or fails, and none is lost.
    @Test func aRegionGoesUnderItsRequests() throws {
        let program = try Program(options: ["--cache", "none"])
        var options = FrontendOptions()
        options.protocolFeatures.insert(.configureMemorySlots)
        options.memory = [(0, 8 << 20)]
        let frontend = try VhostUserFrontend.connect(FilePath(program.server.socket), options)
        let queueDriver = try QueueDriver(frontend)
        try frontend.start()
        let more = try FrontendMemory([(0x8000_0000, 4 << 20)])
        let head = try #require(queueDriver.memory.allocate(64 * 32))
        var (ok, failed) = (0, 0)
        for round in 0..<50 {
            try frontend.ask(.addMemoryRegion, SingleRegion(more.regions[0]), descriptors: more.descriptors)
            for i in 0..<32 {
                let at = head + UInt64(i * 64)
                queueDriver.memory.putHeader(type: VirtioBlk.RequestType.read, sector: UInt64(i * 64), at: at)
                queueDriver.memory.fill(0xff, 1, at: at + 32)
                more.guest.fill(0xee, 32768, at: 0x8000_0000 + UInt64(i * 32768))
                queueDriver.driver.publish([
                    MockBuffer(at, 16, isWritable: false),
                    MockBuffer(0x8000_0000 + UInt64(i * 32768), 32768, isWritable: true),
                    MockBuffer(at + 32, 1, isWritable: true),
                ])
            }
            queueDriver.queue.kick.signal()
            usleep(useconds_t(round * 20))
            try frontend.ask(.removeMemoryRegion, SingleRegion(more.regions[0]))
            let end = Date(timeIntervalSinceNow: 10)
            while queueDriver.driver.inFlight > 0, Date() < end {
                if queueDriver.driver.collect().isEmpty { usleep(100) }
            }
            #expect(queueDriver.driver.inFlight == 0)
            for i in 0..<32 {
                let status = queueDriver.memory.byte(head + UInt64(i * 64 + 32))
                let first = more.guest.read(4, at: 0x8000_0000 + UInt64(i * 32768))
                if status == RequestStatus.ok.rawValue {
                    ok += 1
                    #expect(number(first) == i * 64)
                } else {
                    failed += 1
                    #expect(status == RequestStatus.ioError.rawValue && first == [0xee, 0xee, 0xee, 0xee])
                }
            }
        }
        #expect(ok > 0, "\(failed) failed")
    }
}
