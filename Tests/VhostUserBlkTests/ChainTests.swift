// Formats/virtio-blk says what follows from each bad chain. Here a driver does each of them to the real back-end,
// whose other queue goes on, as does this one where it should.
import DiskTypes
import Foundation
import ImageChain
import TestKit
import Testing
import VhostUserBlk
import VhostUserClient
import VhostUserFrontend
import VhostUserWire
import Virtqueue
import VirtqueueMock
import SystemPackage

private typealias Entry = (address: UInt64, length: UInt32, flags: UInt16, next: UInt16)
private let next = RingLayout.flagNext
private let write = RingLayout.flagWrite
private let indirect = RingLayout.flagIndirect

/// What the driver sees of a chain.
private enum Follows { case ok, ioError, bareHead }

/// A driver's doing, by name; its descriptors over the places of the harness.
enum BadChain: String, CaseIterable, CustomTestStringConvertible, Sendable {
    case sound, outsideMemory, pastTheEnd, wraps, readableAfterWritable, indirectWithNext, shortHeader, noHeader
    case nextOutside, loop, tableInTable, emptyTable, oddTable, hugeTable, tableOutside, nextOutsideTable, loopInTable
    case noStatus, emptyBuffers, tooManySegments
    var testDescription: String { rawValue }
    /// Links of descriptors outside a table are a thing of split rings.
    var isSplitOnly: Bool { [.nextOutside, .loop, .nextOutsideTable, .loopInTable].contains(self) }
}

/// One queue that is driven by hand and one that must not notice.
private final class ChainHarness {
    let served = try? Served(workers: 1)
    let frontend: VhostUserFrontend
    let queueDriver: QueueDriver
    let other: BlockClient
    let (header, data, status, table): (UInt64, UInt64, UInt64, UInt64)

    init(_ rings: Rings, change: (inout FrontendOptions) -> Void = { _ in }) throws {
        guard let served else { throw TestFailure("no server") }
        var options = rings.options
        change(&options)
        frontend = try VhostUserFrontend.connect(try FilePath(served.disk(queues: 2)), options)
        let frontend = frontend
        queueDriver = try QueueDriver(frontend)
        other = try BlockClient(frontend)
        let memory = queueDriver.memory
        func place(_ bytes: Int) throws -> UInt64 {
            guard let place = memory.allocate(bytes, alignment: 4096) else { throw TestFailure("no room") }
            return place
        }
        (header, data, status, table) = (try place(4096), try place(4096), try place(4096), try place(1 << 20))
        memory.putHeader(type: VirtioBlk.RequestType.read, sector: 3, at: header)
        try frontend.start()
        // Starting signals once; what comes later is an answer.
        _ = try queueDriver.queue.call.wait(milliseconds: 5000)
        queueDriver.queue.call.take()
    }

    /// Publishes a chain and waits for what comes back.
    func answer(_ list: [Entry]) throws -> (used: MockUsed, status: UInt8, data: [UInt8]) {
        queueDriver.memory.fill(0xff, 1, at: status)
        queueDriver.memory.fill(0xee, 512, at: data)
        let start = queueDriver.driver.nextAvail
        let before = usedIndex
        queueDriver.driver.publishRaw(
            list.map { ($0.address, $0.length, $0.flags, queueDriver.driver.isPacked ? 5 : $0.next) })
        queueDriver.queue.kick.signal()
        guard try queueDriver.queue.call.wait(milliseconds: 5000) else { throw TestFailure("no answer") }
        queueDriver.queue.call.take()
        let used =
            queueDriver.driver.isPacked
            ? queueDriver.driver.usedEntry(Int(start))
            : MockUsed(
                id: UInt16(truncatingIfNeeded: word(4 + 8 * Int(before) % (8 * queueDriver.driver.size))),
                written: word(8 + 8 * Int(before) % (8 * queueDriver.driver.size)))
        return (used, queueDriver.memory.byte(status), queueDriver.memory.read(512, at: data))
    }
    private func word(_ offset: Int) -> UInt32 {
        queueDriver.memory.load(UInt32.self, at: queueDriver.driver.deviceArea + UInt64(offset))
    }
    private var usedIndex: UInt16 { queueDriver.memory.load(UInt16.self, at: queueDriver.driver.deviceArea + 2) }

    var sound: [Entry] { [(header, 16, next, 1), (data, 512, next | write, 2), (status, 1, write, 0)] }

    func expectOtherLives() throws {
        #expect(number(try other.perform(.read(sector: 9, count: 512)).data) == 9)
    }

    /// The chain and what must follow.
    func chain(_ bad: BadChain) -> (list: [Entry], follows: Follows) {
        let nowhere: UInt64 = 0x7fff_0000_0000
        func table(_ list: [Entry]) -> [Entry] {
            queueDriver.driver.writeTable(at: self.table, list)
            return [(self.table, UInt32(list.count * 16), indirect, 0)]
        }
        switch bad {
        case .sound: return (sound, .ok)
        case .outsideMemory: return ([sound[0], (nowhere, 512, next | write, 2), sound[2]], .ioError)
        case .pastTheEnd:
            let end = queueDriver.memory.regions[0].guest.raw + queueDriver.memory.regions[0].size
            return ([sound[0], (end - 256, 512, next | write, 2), sound[2]], .ioError)
        case .wraps: return ([sound[0], (.max - 255, 512, next | write, 2), sound[2]], .ioError)
        case .readableAfterWritable:
            return ([(data, 512, next | write, 1), (header, 16, next, 2), sound[2]], .ioError)
        case .indirectWithNext:
            let inner = table(sound)
            return (
                [(inner[0].address, inner[0].length, indirect | next, 1), sound[2]],
                queueDriver.driver.isPacked ? .ioError : .ioError
            )
        case .shortHeader: return ([(header, 15, next, 1), sound[1], sound[2]], .ioError)
        case .noHeader: return ([(data, 512, next | write, 1), (status, 1, write, 0)], .ioError)
        case .nextOutside: return ([sound[0], (data, 512, next | write, 999)], .bareHead)
        case .loop: return ([sound[0], (data, 512, next | write, 1)], .bareHead)
        case .tableInTable: return (table([sound[0], (self.table, 16, indirect, 0)]), .bareHead)
        case .emptyTable: return ([(self.table, 0, indirect, 0)], .bareHead)
        case .oddTable: return ([(self.table, 40, indirect, 0)], .bareHead)
        case .hugeTable: return ([(self.table, 65536 * 16, indirect, 0)], .bareHead)
        case .tableOutside: return ([(nowhere, 48, indirect, 0)], .bareHead)
        case .nextOutsideTable: return (table([sound[0], (data, 512, next | write, 3)]), .bareHead)
        case .loopInTable: return (table([sound[0], (data, 512, next | write, 1)]), .bareHead)
        case .noStatus: return ([sound[0]].map { ($0.address, $0.length, 0, 0) }, .bareHead)
        case .emptyBuffers:
            return (
                [
                    (nowhere, 0, next, 1), (header, 16, next, 2), (data, 512, next | write, 3),
                    (nowhere, 0, next | write, 4),
                    (status, 1, write, 0),
                ], .ok
            )
        case .tooManySegments:
            var list: [Entry] = [sound[0]]
            for i in 0..<1100 { list.append((data + UInt64(i % 512), 1, next | write, UInt16(i + 2))) }
            return (table(list + [sound[2]]), .ioError)
        }
    }
}

@Suite("Bad chains")
struct ChainTests {
    @Test(arguments: BadChain.allCases, [Rings.split, .packed])
    func isAnsweredAsWritten(bad: BadChain, rings: Rings) throws {
        if bad.isSplitOnly, rings.isPacked { return }
        let bench = try ChainHarness(rings)
        let (list, follows) = bench.chain(bad)
        // A sound one behind it shows that the queue goes on.
        for _ in 0..<3 {
            let (used, status, data) = try bench.answer(list)
            #expect(used.id == (rings.isPacked ? 5 : 0))
            switch follows {
            case .ok:
                #expect(status == RequestStatus.ok.rawValue && number(data) == 3 && used.written == 513)
            case .ioError: #expect(status == RequestStatus.ioError.rawValue)
            case .bareHead: #expect(status == 0xff && used.written == 0)
            }
            if follows != .ok { #expect(data.allSatisfy { $0 == 0xee }) }
            let after = try bench.answer(bench.sound)
            #expect(after.status == RequestStatus.ok.rawValue && number(after.data) == 3)
            try bench.expectOtherLives()
        }
    }

    @Test(arguments: [Rings.split, .packed])
    func tablesThatWereNotAgreedOnAreNotRead(rings: Rings) throws {
        let bench = try ChainHarness(rings) { $0.indirect = false }
        bench.queueDriver.driver.writeTable(at: bench.table, bench.sound)
        let (used, status, _) = try bench.answer([(bench.table, 48, indirect, 0)])
        #expect(status == 0xff && used.written == 0)
        #expect(try bench.answer(bench.sound).status == RequestStatus.ok.rawValue)
    }

    enum Damage: String, CaseIterable, Sendable { case availOverrun, headOutside, endless }

    @Test(arguments: Damage.allCases)
    func aBrokenRingSaysSoAndTheOtherGoesOn(damage: Damage) throws {
        let bench = try ChainHarness(damage == .endless ? .packed : .split)
        let driver = bench.queueDriver.driver
        #expect(try bench.answer(bench.sound).status == RequestStatus.ok.rawValue)
        switch damage {
        case .availOverrun: driver.claimAvailIndex(driver.nextAvail &+ UInt16(driver.size) &+ 1)
        case .headOutside: driver.publishHead(UInt16(driver.size))
        case .endless:
            let link: Entry = (bench.data, 1, next | write, 7)
            driver.publishRaw(Array(repeating: link, count: driver.size - 3) + Array(repeating: link, count: 3))
        }
        bench.queueDriver.queue.kick.signal()
        #expect(try bench.queueDriver.queue.failure.wait(milliseconds: 5000))
        try bench.expectOtherLives()
        #expect(bench.served?.lines.count("stops") == 1)
        // Once it is stopped and started anew, it serves.
        try bench.frontend.stop(bench.queueDriver.queue)
        guard damage != .endless else { return }
        if damage == .availOverrun { driver.claimAvailIndex(driver.nextAvail) }
        if damage == .headOutside { bench.queueDriver.queue.base &+= 1 }
        try bench.frontend.start(bench.queueDriver.queue)
        _ = try bench.queueDriver.queue.call.wait(milliseconds: 1000)
        bench.queueDriver.queue.call.take()
        #expect(try bench.answer(bench.sound).status == RequestStatus.ok.rawValue)
    }

    /// A head that is in flight already. Requests are held in flight by an ever-disabled ring: published twice at once.
    @Test func aHeadPublishedTwiceIsServedOnce() throws {
        let bench = try ChainHarness(.split)
        bench.queueDriver.memory.putHeader(type: VirtioBlk.RequestType.read, sector: 3, at: bench.header)
        bench.queueDriver.driver.publishRaw(bench.sound)
        bench.queueDriver.driver.publishHead(0)
        bench.queueDriver.driver.publishHead(0)
        bench.queueDriver.queue.kick.signal()
        let end = Date(timeIntervalSinceNow: 5)
        let place = bench.queueDriver.driver.deviceArea + 2
        while bench.queueDriver.memory.load(UInt16.self, at: place) < 3, Date() < end { usleep(100) }
        #expect(bench.queueDriver.memory.load(UInt16.self, at: place) == 3)
        #expect(number(bench.queueDriver.memory.read(4, at: bench.data)) == 3)
        try bench.expectOtherLives()
    }

    enum Odd: String, CaseIterable, Sendable {
        case length, outside, tooFar, unknownType, discardTooLong, discardFlag, discardTwo, discardShort, zeroesFlag,
            nothing
    }
    @Test(arguments: Odd.allCases)
    func senselessRequestsHaveTheStatusOfTheTable(odd: Odd) throws {
        let served = try Served()
        let (_, clients) = try VhostUserFrontend.running(try served.disk())
        let sectors = UInt64(4 << 20) / 512
        let (error, unsupported) = (RequestStatus.ioError.rawValue, RequestStatus.unsupported.rawValue)
        typealias Kind = VirtioBlk.RequestType
        let (request, status): (ClientRequest, UInt8) =
            switch odd {
            case .length: (.read(sector: 0, count: 513), error)
            case .outside: (.read(sector: sectors - 1, count: 1024), error)
            case .tooFar: (.read(sector: .max, count: 512), error)
            case .unknownType: (ClientRequest(type: 14, room: 512), unsupported)
            case .discardTooLong: (.discard(sector: 0, count: 32769), error)
            case .discardFlag: (ClientRequest(type: Kind.discard, out: Self.segment(0, 8, 1)), unsupported)
            case .discardTwo:
                (ClientRequest(type: Kind.discard, out: Self.segment(0, 8, 0) + Self.segment(8, 8, 0)), unsupported)
            case .discardShort: (ClientRequest(type: Kind.discard, out: [0, 0, 0]), error)
            case .zeroesFlag: (ClientRequest(type: Kind.writeZeroes, out: Self.segment(0, 8, 2)), unsupported)
            case .nothing: (.discard(sector: 5, count: 0), RequestStatus.ok.rawValue)
            }
        #expect(try clients[0].perform(request).status == status)
        #expect(number(try clients[0].perform(.read(sector: 0, count: 512)).data) == 0)
        #expect(number(try clients[0].perform(.read(sector: 8, count: 512)).data) == 8)
    }
    static func segment(_ sector: UInt32, _ count: UInt32, _ flags: UInt32) -> [UInt8] {
        words(sector, 0, count, flags)
    }
}
