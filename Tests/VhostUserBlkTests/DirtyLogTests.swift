// A page that was written and not logged is a guest that is corrupt after its migration. The log comes, is replaced
// and goes while requests are in flight.
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

/// A bitmap that is shared with the server.
private final class Log {
    let memory: SharedMemory
    init(_ bytes: Int = 4096) throws { memory = try SharedMemory("log", count: bytes) }
    var pages: Set<UInt64> {
        var pages: Set<UInt64> = []
        for i in 0..<memory.count {
            let byte = memory.pointer.load(fromByteOffset: i, as: UInt8.self)
            for bit in 0..<8 where byte >> bit & 1 != 0 { pages.insert(UInt64(i * 8 + bit)) }
        }
        return pages
    }
    func clear() { memory.pointer.initializeMemory(as: UInt8.self, repeating: 0, count: memory.count) }
}

private func pages(_ address: UInt64, _ bytes: Int) -> Set<UInt64> {
    Set(address >> 12...(address + UInt64(bytes) - 1) >> 12)
}

@Suite("Dirty log")
struct DirtyLogTests {
    private final class LogHarness {
        let served: Served
        let frontend: VhostUserFrontend
        let queueDriver: QueueDriver
        let base: UInt64

        init(_ rings: Rings) throws {
            served = try Served(workers: 1)
            var options = rings.options
            options.protocolFeatures.insert(.logSharedMemory)
            options.memory = [(0x10000, 16 << 20), (0x200_0000, 16 << 20)]
            frontend = try VhostUserFrontend.connect(try FilePath(served.disk()), options)
            queueDriver = try QueueDriver(frontend)
            base = 0x200_0000
            try frontend.start()
        }

        func set(_ log: Log) throws {
            let description = LogDescription(mmapSize: UInt64(log.memory.count), mmapOffset: 0)
            try frontend.ask(.setLogBase, description, descriptors: [log.memory.fd])
        }
        func logAll(_ isOn: Bool) throws {
            let bit = isOn ? VirtioBlk.Feature.logAll : 0
            try frontend.ask(.setFeatures, WireNumber(frontend.features | bit))
        }
        func logRing(_ isOn: Bool) throws {
            let address = frontend.address(of: queueDriver.queue, logged: isOn ? queueDriver.driver.deviceArea : nil)
            try frontend.ask(.setVringAddress, address)
        }

        /// Publishes request `i`: its header, data and status are on pages of their own.
        func publish(_ i: Int, type: UInt32 = VirtioBlk.RequestType.read, bytes: Int = 8192) {
            let at = base + UInt64(i) * 0x8000
            queueDriver.memory.putHeader(type: type, sector: UInt64(i * 16), at: at)
            queueDriver.memory.fill(0xff, 1, at: at + 0x5000)
            queueDriver.driver.publish([
                MockBuffer(at, 16, isWritable: false),
                MockBuffer(at + 0x1800, UInt32(bytes), isWritable: type == VirtioBlk.RequestType.read),
                MockBuffer(at + 0x5000, 1, isWritable: true),
            ])
            queueDriver.kick()
        }
        func written(_ i: Int, bytes: Int = 8192) -> Set<UInt64> {
            let at = base + UInt64(i) * 0x8000
            return pages(at + 0x1800, bytes).union(pages(at + 0x5000, 1))
        }
        func drain() throws {
            while queueDriver.driver.inFlight > 0 {
                if !queueDriver.driver.collect().isEmpty || queueDriver.driver.enableSignals() { continue }
                guard try queueDriver.queue.call.wait(milliseconds: 5000) else { throw TestFailure("stuck") }
                queueDriver.queue.call.take()
            }
        }
        /// Pages of the ring that the device writes.
        var ring: Set<UInt64> {
            let size = queueDriver.driver.size
            guard queueDriver.driver.isPacked else {
                return pages(queueDriver.driver.deviceArea, RingLayout.usedBytes(size: size))
            }
            return pages(queueDriver.driver.descriptorArea, 16 * size).union(pages(queueDriver.driver.deviceArea, 4))
        }
    }

    @Test(arguments: Rings.allCases)
    func whatTheDeviceWritesIsLoggedAndNothingElse(rings: Rings) throws {
        let bench = try LogHarness(rings)
        let log = try Log()
        bench.publish(0)
        try bench.drain()
        try bench.set(log)
        bench.publish(1)
        try bench.drain()
        #expect(log.pages.isEmpty, "nothing is logged before LOG_ALL")
        try bench.logAll(true)
        bench.publish(2)
        bench.publish(3, type: VirtioBlk.RequestType.write)
        try bench.drain()
        #expect(log.pages == bench.written(2).union(pages(bench.base + 3 * 0x8000 + 0x5000, 1)))
        log.clear()
        try bench.logRing(true)
        bench.publish(4)
        try bench.drain()
        #expect(log.pages.isSuperset(of: bench.written(4)))
        #expect(log.pages.isSubset(of: bench.written(4).union(bench.ring)))
        #expect(!log.pages.isDisjoint(with: bench.ring))
        // The packed ring's entries and its event structure, the split ring's elements, index and event.
        if rings.isPacked {
            #expect(
                !log.pages.isDisjoint(
                    with: pages(bench.queueDriver.driver.descriptorArea, 16 * bench.queueDriver.driver.size)))
        }
        // A worker that falls asleep writes its wish to be kicked, and logs that as long as it logs.
        try bench.logAll(false)
        log.clear()
        bench.publish(5)
        try bench.drain()
        #expect(log.pages.isEmpty)
    }

    /// The rings lie on pages of their own; every one that changes is logged.
    @Test(arguments: Rings.allCases)
    func everyPageOfTheRingThatChangesIsLogged(rings: Rings) throws {
        let bench = try LogHarness(rings)
        let log = try Log()
        try bench.set(log)
        try bench.logAll(true)
        try bench.logRing(true)
        let driver = bench.queueDriver.driver
        for round in 0..<20 {
            log.clear()
            let device = bench.queueDriver.memory.read(4, at: driver.deviceArea)
            for i in 0..<8 { bench.publish(i) }
            try bench.drain()
            usleep(5000)
            let after = bench.queueDriver.memory.read(4, at: driver.deviceArea)
            if device != after { #expect(log.pages.contains(driver.deviceArea >> 12), "round \(round)") }
        }
    }

    @Test(arguments: Rings.both)
    func theLogIsReplacedUnderRequests(rings: Rings) throws {
        let bench = try LogHarness(rings)
        var old = try Log()
        try bench.set(old)
        try bench.logAll(true)
        for _ in 0..<50 {
            for i in 0..<30 { bench.publish(i) }
            let new = try Log()
            try bench.set(new)
            try bench.drain()
            let wanted = (0..<30).reduce(into: Set<UInt64>()) { $0.formUnion(bench.written($1)) }
            #expect(old.pages.union(new.pages) == wanted)
            // The old one is not in use any more.
            old.clear()
            bench.publish(0)
            try bench.drain()
            #expect(old.pages.isEmpty)
            old = new
            old.clear()
        }
    }

    @Test(arguments: Rings.both)
    func requestsInFlightAreLoggedOnceTheLogIsOn(rings: Rings) throws {
        let bench = try LogHarness(rings)
        let log = try Log()
        try bench.set(log)
        for _ in 0..<50 {
            for i in 0..<30 { bench.publish(i) }
            try bench.logAll(true)
            let early = bench.queueDriver.driver.collect().count
            try bench.drain()
            let all = (0..<30).reduce(into: Set<UInt64>()) { $0.formUnion(bench.written($1)) }
            #expect(log.pages.isSubset(of: all))
            #expect(log.pages.count >= (30 - early) * bench.written(0).count)
            try bench.logAll(false)
            log.clear()
        }
    }

    @Test func aLogOfNonsenseIsRefused() throws {
        let bench = try LogHarness(.splitEvent)
        let log = try Log()
        let event = try EventFD()
        for (size, offset, fd) in [
            (UInt64(0), UInt64(0), log.memory.fd), (8192, 0, log.memory.fd), (4096, 4096, log.memory.fd),
            (.max, 0, log.memory.fd), (1, .max, log.memory.fd), (4096, 0, event.raw),
        ] {
            let frontend = try VhostUserFrontend.connect(try FilePath(bench.served.disk()), bench.frontend.options)
            let description = LogDescription(mmapSize: size, mmapOffset: offset)
            #expect(throws: FrontendError.self) { try frontend.ask(.setLogBase, description, descriptors: [fd]) }
        }
        bench.publish(0)
        try bench.drain()
    }
}
