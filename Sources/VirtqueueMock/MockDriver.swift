// The driver's side of a virtqueue, as a guest kernel has it, in this process. Tests, fuzzers and the benchmark publish
// requests with it. This file is what a correct driver does; MockDriver+Malformed.swift is what a broken or hostile one
// may do.
public import Virtqueue

/// One buffer of a chain, as the driver describes it to the device.
public struct MockBuffer: BitwiseCopyable, Equatable, Sendable {
    /// Guest address of the first byte.
    public var address: UInt64
    /// Bytes.
    public var length: UInt32
    /// The device writes the buffer, else it reads it.
    public var isWritable: Bool
    /// Nothing is checked: the buffer may be outside the memory.
    public init(_ address: UInt64, _ length: UInt32, isWritable: Bool) {
        self.address = address
        self.length = length
        self.isWritable = isWritable
    }
}

/// A chain that the device has given back.
public struct MockUsed: BitwiseCopyable, Equatable, Sendable {
    /// Head (split) or buffer id (packed), as the device wrote it.
    public let id: UInt16
    /// Bytes that the device says it wrote to the chain's buffers.
    public let written: UInt32
    /// What a test expects.
    public init(id: UInt16, written: UInt32) {
        self.id = id
        self.written = written
    }
}

/// A driver with one ring in guest memory.
@safe public final class MockDriver {
    /// Where rings and indirect tables are.
    public let memory: DriverMemory
    /// Entries of the ring.
    public let size: Int
    /// What was negotiated.
    public let features: RingFeatures
    /// The ring is packed, not split.
    public let isPacked: Bool
    /// Guest address of the descriptor table (split) or of the ring (packed).
    public let descriptorArea: UInt64
    /// Guest address of the available ring (split) or of the driver's event suppression (packed).
    public let driverArea: UInt64
    /// Guest address of the used ring (split) or of the device's event suppression (packed).
    public let deviceArea: UInt64
    /// Buffers that an indirect table of this driver can have.
    public let tableEntries: Int

    let descriptors: UnsafeMutableRawPointer
    let driver: UnsafeMutableRawPointer
    let device: UnsafeMutableRawPointer
    private let tables: UInt64
    private let tablesHost: UnsafeMutableRawPointer

    /// Free descriptors (split) or buffer ids (packed).
    private var free: [UInt16]
    /// Split: the link after each descriptor of a chain in flight, -1 at its end.
    private var links: [Int32]
    /// Packed: ring entries of each id in flight.
    private var entries: [Int]
    private var freeEntries: Int
    /// Split: avail.idx. Packed: the entry that is filled next.
    public internal(set) var nextAvail: UInt16 = 0
    var availWrap = true
    /// Split: the used index that is collected next. Packed: the entry that is collected next.
    public internal(set) var nextUsed: UInt16 = 0
    var usedWrap = true
    /// `nextAvail` at the last call of `needsKick`.
    var kickedAvail: UInt16 = 0
    /// Chains published and not collected yet.
    public private(set) var inFlight = 0

    /// Allocates a ring of `size` entries in region `region`; nil when it has no room. `tableEntries`: buffers that an
    /// indirect table may have. `spacing` (a power of two, in bytes): the areas begin at its multiples.
    public init?(
        memory: DriverMemory, size: Int, features: RingFeatures = [.indirect], tableEntries: Int = 8, region: Int = 0,
        spacing: UInt64 = 16
    ) {
        isPacked = features.contains(.packed)
        let driverBytes = isPacked ? RingLayout.eventBytes : RingLayout.availBytes(size: size)
        let deviceBytes = isPacked ? RingLayout.eventBytes : RingLayout.usedBytes(size: size)
        let tableBytes = size * tableEntries * RingLayout.descriptorBytes
        func allocate(_ bytes: Int) -> UInt64? { memory.allocate(bytes, alignment: spacing, region: region) }
        guard let descriptorArea = allocate(RingLayout.descriptorBytes * size), let driverArea = allocate(driverBytes),
            let deviceArea = allocate(deviceBytes), let tables = allocate(max(tableBytes, 1)),
            let descriptors = unsafe memory.host(descriptorArea), let driver = unsafe memory.host(driverArea),
            let device = unsafe memory.host(deviceArea), let tablesHost = unsafe memory.host(tables)
        else { return nil }
        self.memory = memory
        self.size = size
        self.features = features
        self.tableEntries = tableEntries
        self.descriptorArea = descriptorArea
        self.driverArea = driverArea
        self.deviceArea = deviceArea
        unsafe self.descriptors = unsafe descriptors
        unsafe self.driver = unsafe driver
        unsafe self.device = unsafe device
        self.tables = tables
        unsafe self.tablesHost = unsafe tablesHost
        free = (0..<size).reversed().map { UInt16($0) }
        links = Array(repeating: -1, count: size)
        entries = Array(repeating: 0, count: size)
        freeEntries = size
    }

    /// Makes the ring anew, as the next driver of the device would: zeros, from the first entry on. Chains in flight
    /// are forgotten; the device must not use the ring meanwhile.
    public func startOver() {
        let driverBytes = isPacked ? RingLayout.eventBytes : RingLayout.availBytes(size: size)
        let deviceBytes = isPacked ? RingLayout.eventBytes : RingLayout.usedBytes(size: size)
        unsafe descriptors.initializeMemory(as: UInt8.self, repeating: 0, count: RingLayout.descriptorBytes * size)
        unsafe driver.initializeMemory(as: UInt8.self, repeating: 0, count: driverBytes)
        unsafe device.initializeMemory(as: UInt8.self, repeating: 0, count: deviceBytes)
        free = (0..<size).reversed().map { UInt16($0) }
        links = Array(repeating: -1, count: size)
        entries = Array(repeating: 0, count: size)
        (freeEntries, inFlight) = (size, 0)
        (nextAvail, nextUsed, kickedAvail) = (0, 0, 0)
        (availWrap, usedWrap) = (true, true)
    }

    /// The ring's addresses, for `RingAddresses`.
    public var addresses: RingAddresses.Addresses {
        .guest(
            descriptors: GuestAddress(descriptorArea), driver: GuestAddress(driverArea),
            device: GuestAddress(deviceArea))
    }

    /// Descriptors that a chain may have now, without an indirect table.
    public var room: Int { isPacked ? (free.isEmpty ? 0 : freeEntries) : free.count }

    // MARK: publish

    /// Makes a chain available. Returns its head (split) or id (packed), or nil when the ring or the table is too small
    /// for it.
    @discardableResult
    public func publish(_ buffers: [MockBuffer], indirect: Bool = false) -> UInt16? {
        unsafe buffers.withUnsafeBufferPointer { unsafe publish($0, indirect: indirect) }
    }

    /// The same without an array, for a benchmark.
    @discardableResult
    public func publish(_ buffers: UnsafeBufferPointer<MockBuffer>, indirect: Bool) -> UInt16? {
        let count = indirect ? 1 : buffers.count
        guard count > 0, buffers.count <= (indirect ? tableEntries : size) else { return nil }
        guard isPacked ? !free.isEmpty && freeEntries >= count : free.count >= count else { return nil }
        let id = unsafe isPacked ? publishPacked(buffers, indirect) : publishSplit(buffers, indirect)
        inFlight += 1
        return id
    }

    private func publishSplit(_ buffers: UnsafeBufferPointer<MockBuffer>, _ indirect: Bool) -> UInt16 {
        let head = free.removeLast()
        if indirect {
            unsafe fillTable(buffers, head)
            writeDescriptor(
                Int(head), address: tableAddress(head), length: UInt32(buffers.count * 16),
                flags: RingLayout.flagIndirect, next: 0)
            links[Int(head)] = -1
        } else {
            var index = head
            for i in buffers.indices {
                let buffer = unsafe buffers[i]
                let isLast = i == buffers.count - 1
                let next = isLast ? 0 : free.removeLast()
                var flags = buffer.isWritable ? RingLayout.flagWrite : 0
                if !isLast { flags |= RingLayout.flagNext }
                writeDescriptor(
                    Int(index), address: buffer.address, length: buffer.length, flags: flags, next: next)
                links[Int(index)] = isLast ? -1 : Int32(next)
                index = next
            }
        }
        publishHead(head)
        return head
    }

    private func publishPacked(_ buffers: UnsafeBufferPointer<MockBuffer>, _ indirect: Bool) -> UInt16 {
        let id = free.removeLast()
        let first = nextAvail
        var firstFlags: UInt16 = 0
        let count = indirect ? 1 : buffers.count
        if indirect { unsafe fillTable(buffers, id) }
        for i in 0..<count {
            var flags = availWrap ? RingLayout.flagAvail : RingLayout.flagUsed
            if indirect {
                flags |= RingLayout.flagIndirect
            } else {
                if unsafe buffers[i].isWritable { flags |= RingLayout.flagWrite }
                if i < count - 1 { flags |= RingLayout.flagNext }
            }
            let address = unsafe indirect ? tableAddress(id) : buffers[i].address
            let length = unsafe indirect ? UInt32(buffers.count * 16) : buffers[i].length
            // All but the first are written completely; the other side reads none of them before the first has its
            // flags.
            writeDescriptor(
                Int(nextAvail), address: address, length: length, flags: i == 0 ? nil : flags, next: id)
            if i == 0 { firstFlags = flags }
            advance(&nextAvail, &availWrap, 1)
        }
        unsafe release16(descriptors + Int(first) * RingLayout.descriptorBytes + 14, firstFlags)
        entries[Int(id)] = count
        freeEntries -= count
        return id
    }

    private func tableAddress(_ id: UInt16) -> UInt64 {
        tables + UInt64(Int(id) * tableEntries * RingLayout.descriptorBytes)
    }

    private func fillTable(_ buffers: UnsafeBufferPointer<MockBuffer>, _ id: UInt16) {
        let table = unsafe tablesHost + Int(id) * tableEntries * RingLayout.descriptorBytes
        for i in buffers.indices {
            let buffer = unsafe buffers[i]
            var flags = buffer.isWritable ? RingLayout.flagWrite : 0
            if !isPacked, i < buffers.count - 1 { flags |= RingLayout.flagNext }
            let place = unsafe table + i * RingLayout.descriptorBytes
            unsafe place.storeBytes(of: buffer.address.littleEndian, as: UInt64.self)
            unsafe place.storeBytes(of: buffer.length.littleEndian, toByteOffset: 8, as: UInt32.self)
            unsafe store16(place + 12, isPacked ? 0 : flags)
            unsafe store16(place + 14, isPacked ? flags : UInt16(i + 1))
        }
    }

    /// Moves a packed position `count` entries on.
    func advance(_ index: inout UInt16, _ wrap: inout Bool, _ count: Int) {
        var next = Int(index) + count
        if next >= size {
            next -= size
            wrap.toggle()
        }
        index = UInt16(next)
    }

    // MARK: collect

    /// Collects the next chain that is back; nil when there is none.
    public func nextUsedBuffer() -> MockUsed? {
        isPacked ? collectPacked() : collectSplit()
    }

    /// Collects all chains that are back.
    public func collect() -> [MockUsed] {
        var all: [MockUsed] = []
        while let one = nextUsedBuffer() { all.append(one) }
        return all
    }

    private func collectSplit() -> MockUsed? {
        guard unsafe acquire16(device + RingLayout.usedIndexOffset) != nextUsed else { return nil }
        let place = unsafe device + RingLayout.usedRingOffset + RingLayout.usedElementBytes * (Int(nextUsed) % size)
        let id = unsafe UInt32(littleEndian: place.load(as: UInt32.self))
        let written = unsafe UInt32(littleEndian: place.load(fromByteOffset: 4, as: UInt32.self))
        nextUsed &+= 1
        inFlight -= 1
        var index = Int32(truncatingIfNeeded: id)
        while index >= 0, Int(index) < size {
            free.append(UInt16(index))
            let next = links[Int(index)]
            links[Int(index)] = -1
            index = next
        }
        return MockUsed(id: UInt16(truncatingIfNeeded: id), written: written)
    }

    private func collectPacked() -> MockUsed? {
        let place = unsafe descriptors + Int(nextUsed) * RingLayout.descriptorBytes
        let word = unsafe acquire64(place + 8)
        let flags = UInt16(truncatingIfNeeded: word >> 48) & (RingLayout.flagAvail | RingLayout.flagUsed)
        guard flags == (usedWrap ? RingLayout.flagAvail | RingLayout.flagUsed : 0) else { return nil }
        let id = UInt16(truncatingIfNeeded: word >> 32)
        let count = Int(id) < size ? max(entries[Int(id)], 1) : 1
        if Int(id) < size, entries[Int(id)] > 0 {
            free.append(id)
            freeEntries += count
            entries[Int(id)] = 0
        }
        advance(&nextUsed, &usedWrap, count)
        inFlight -= 1
        return MockUsed(id: id, written: UInt32(truncatingIfNeeded: word))
    }
}

/// For one thread, or for a test that takes care of what it shares.
extension MockDriver: @unchecked Sendable {}
