// What is written is read back the same, and whatever else a peer sends is an error with a name, at every length,
// never a trap.
import Testing
import VhostUserWire

struct PayloadTests {
    static let region = MemoryRegion(
        guestAddress: 0x1_0000_0000, size: 0x4000_0000, userAddress: 0x7fff_0000_0000, mmapOffset: 0x2000)
    static let full = MemoryTable(
        (0..<8).map { i in
            MemoryRegion(guestAddress: UInt64(i) << 32, size: 4096, userAddress: UInt64(i) << 40, mmapOffset: 0)
        })

    private func roundTrip<P: WirePayload>(_ payload: P) throws {
        #expect(try P(decoding: payload.encoded) == payload)
    }

    @Test func everyPayloadIsReadAsWritten() throws {
        try roundTrip(WireNumber(0x0123_4567_89ab_cdef))
        try roundTrip(VringState(index: 3, num: 0xffff_ffff))
        try roundTrip(VringAddress(index: 1, flags: 1, descriptors: 2, used: 3, avail: 4, log: .max))
        try roundTrip(VringEvent(index: 255, hasDescriptor: false))
        try roundTrip(VringEvent(index: 0))
        try roundTrip(MemoryTable([]))
        try roundTrip(Self.full)
        try roundTrip(SingleRegion(Self.region))
        try roundTrip(ConfigAccess(offset: 0, data: []))
        try roundTrip(ConfigAccess(offset: 32, flags: 1, data: Array(0...255)))
        try roundTrip(InflightDescription(mmapSize: 1, mmapOffset: 2, queueCount: 3, queueSize: 4))
        try roundTrip(LogDescription(mmapSize: 1 << 40, mmapOffset: 4096))
    }

    /// Bytes written out by hand, from the table.
    @Test func aVringAddressHasUsedBeforeAvail() {
        let bytes = VringAddress(index: 1, flags: 2, descriptors: 3, used: 4, avail: 5, log: 6).encoded
        #expect(bytes == [1, 0, 0, 0, 2, 0, 0, 0] + [3, 4, 5, 6].flatMap { [$0, 0, 0, 0, 0, 0, 0, 0] })
    }
    @Test func anInflightDescriptionGoesOutWithItsPadding() {
        let bytes = InflightDescription(mmapSize: 0x1122, mmapOffset: 0, queueCount: 2, queueSize: 256).encoded
        #expect(bytes == [0x22, 0x11] + Array(repeating: 0, count: 14) + [2, 0, 0, 1, 0, 0, 0, 0])
    }
    @Test func anInflightDescriptionWithoutPaddingIsUnderstood() throws {
        let whole = InflightDescription(mmapSize: 9, mmapOffset: 8, queueCount: 7, queueSize: 6)
        #expect(try InflightDescription(decoding: Array(whole.encoded.prefix(20))) == whole)
    }
    @Test func aMemoryTableMayBeSentWhole() throws {
        let one = MemoryTable([Self.region])
        let whole = one.encoded + Array(repeating: 0xff, count: 7 * MemoryRegion.bytes)
        #expect(try MemoryTable(decoding: whole) == one)
    }

    /// How many of the lengths from 0 to well past the whole are accepted.
    private func acceptedLengths<P: WirePayload>(_ payload: P) -> [Int] {
        let whole = payload.encoded + Array(repeating: UInt8(1), count: 300)
        return (0...whole.count).filter { (try? P(decoding: Array(whole.prefix($0)))) != nil }
    }
    @Test func everyOtherLengthIsRefused() {
        #expect(acceptedLengths(WireNumber(1)) == [8])
        #expect(acceptedLengths(VringState(index: 0, num: 1)) == [8])
        #expect(acceptedLengths(VringAddress(index: 0, descriptors: 1, used: 2, avail: 3)) == [40])
        #expect(acceptedLengths(VringEvent(index: 1)) == [8])
        #expect(acceptedLengths(MemoryTable([Self.region, Self.region])) == Array(72...264))
        #expect(acceptedLengths(SingleRegion(Self.region)) == [40])
        #expect(acceptedLengths(ConfigAccess(offset: 0, data: [1, 2, 3])) == [15])
        #expect(acceptedLengths(LogDescription(mmapSize: 1, mmapOffset: 0)) == [16])
        #expect(
            acceptedLengths(InflightDescription(mmapSize: 1, mmapOffset: 0, queueCount: 1, queueSize: 1)) == [20, 24])
    }

    @Test func moreRegionsThanATableHoldsAreRefused() {
        let nine = MemoryTable(Self.full.regions + [Self.region])
        #expect(throws: WireError.tooManyRegions(9)) { try MemoryTable(decoding: nine.encoded) }
        let many: [UInt8] = [0xff, 0xff, 0xff, 0xff] + Array(repeating: 0, count: 260)
        #expect(throws: WireError.tooManyRegions(.max)) { try MemoryTable(decoding: many) }
    }
    @Test(arguments: [
        MemoryRegion(guestAddress: 5, size: 0, userAddress: 0, mmapOffset: 0),
        MemoryRegion(guestAddress: .max, size: 1, userAddress: 0, mmapOffset: 0),
        MemoryRegion(guestAddress: 0, size: .max, userAddress: 1, mmapOffset: 0),
        MemoryRegion(guestAddress: 0, size: 4096, userAddress: 0, mmapOffset: .max - 4094),
    ])
    func aRegionThatOverflowsIsRefused(region: MemoryRegion) {
        let error = WireError.regionOverflows(guestAddress: region.guestAddress)
        #expect(throws: error) { try SingleRegion(decoding: SingleRegion(region).encoded) }
        #expect(throws: error) { try MemoryTable(decoding: MemoryTable([region]).encoded) }
    }
    @Test func aRegionMayEndAtTheLastAddress() throws {
        let last = MemoryRegion(guestAddress: .max - 4096, size: 4096, userAddress: .max - 4096, mmapOffset: 0)
        try roundTrip(SingleRegion(last))
    }

    @Test func aConfigAccessLongerThanItsLimitIsRefused() {
        let long = ConfigAccess(offset: 0, data: Array(repeating: 0, count: 257)).encoded
        #expect(throws: WireError.configOutOfRange(offset: 0, bytes: 257)) { try ConfigAccess(decoding: long) }
    }
    @Test func aConfigAccessThatOverflowsIsRefused() {
        let past = ConfigAccess(offset: .max, data: [1]).encoded
        #expect(throws: WireError.configOutOfRange(offset: .max, bytes: 1)) { try ConfigAccess(decoding: past) }
    }
    @Test func areasThatOverflowAreRefused() {
        let log = LogDescription(mmapSize: .max, mmapOffset: 1).encoded
        #expect(throws: WireError.areaOverflows(.log)) { try LogDescription(decoding: log) }
        let record = InflightDescription(mmapSize: 2, mmapOffset: .max, queueCount: 1, queueSize: 1).encoded
        #expect(throws: WireError.areaOverflows(.inflight)) { try InflightDescription(decoding: record) }
    }

    /// Every payload type survives every kind of noise; what it accepts, it writes the same again.
    @Test func noiseNeverTraps() {
        var generator = SystemRandomNumberGenerator()
        for _ in 0..<20_000 {
            var bytes = (0..<Int.random(in: 0...320)).map { _ in UInt8.random(in: 0...255, using: &generator) }
            if Bool.random(), bytes.count >= 8 { for i in 1..<8 { bytes[i] = 0 } }
            if let table = try? MemoryTable(decoding: bytes) {
                #expect((try? MemoryTable(decoding: table.encoded)) == table)
            }
            if let config = try? ConfigAccess(decoding: bytes) { #expect(config.encoded == bytes) }
            _ = try? MessageHeader(decoding: bytes)
            _ = try? VringAddress(decoding: bytes)
            _ = try? SingleRegion(decoding: bytes)
            _ = try? InflightDescription(decoding: bytes)
            _ = try? LogDescription(decoding: bytes)
        }
    }
}
