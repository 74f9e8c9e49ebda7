// The payloads by which a front-end describes the guest's memory. Back-ends that add these numbers without a check
// overflow, so the ends of a decoded region, in all three address spaces, are 64-bit numbers.

/// A range of guest memory inside a shared file (specification: "Memory region description").
@frozen public struct MemoryRegion: Equatable, Sendable, BitwiseCopyable {
    /// Bytes of the structure.
    public static let bytes = 32
    /// Offsets in the structure, in bytes; each field is a u64.
    public enum Field {
        /// The first guest address.
        public static let guestAddress = 0
        /// Bytes of the region.
        public static let size = 8
        /// The first address in the front-end.
        public static let userAddress = 16
        /// Where the region begins in its file, in bytes.
        public static let mmapOffset = 24
    }
    /// Where the region begins in the guest's address space.
    public let guestAddress: UInt64
    /// Bytes of the region; not 0 in a decoded one.
    public let size: UInt64
    /// Where the region begins in the front-end's address space: SET_VRING_ADDR gives rings by such addresses.
    public let userAddress: UInt64
    /// Where the region begins in its file, in bytes.
    public let mmapOffset: UInt64

    /// A region that is to be sent. Nothing is checked.
    public init(guestAddress: UInt64, size: UInt64, userAddress: UInt64, mmapOffset: UInt64) {
        self.guestAddress = guestAddress
        self.size = size
        self.userAddress = userAddress
        self.mmapOffset = mmapOffset
    }

    /// The region at byte `offset` of a payload. Throws `.wrongSize`, with `what` as its structure, when the payload
    /// ends inside it, and `.regionOverflows` for one that is empty or whose end is no 64-bit number.
    init(decoding payload: [UInt8], at offset: Int, _ what: WireError.Structure) throws(WireError) {
        guard let guest = payload.native(UInt64.self, at: offset + Field.guestAddress),
            let size = payload.native(UInt64.self, at: offset + Field.size),
            let user = payload.native(UInt64.self, at: offset + Field.userAddress),
            let place = payload.native(UInt64.self, at: offset + Field.mmapOffset)
        else { throw .wrongSize(what, bytes: payload.count) }
        // Ends may be one past the last address, 2^64 - 1, at most.
        for start in [guest, user, place] where size == 0 || start.addingReportingOverflow(size).overflow {
            throw .regionOverflows(guestAddress: guest)
        }
        self.init(guestAddress: guest, size: size, userAddress: user, mmapOffset: place)
    }

    func append(to bytes: inout [UInt8]) {
        for number in [guestAddress, size, userAddress, mmapOffset] { bytes.append(native: number) }
    }
}

/// SET_MEM_TABLE: all regions at once, with a descriptor for each (specification: "Multiple Memory regions
/// description").
public struct MemoryTable: WirePayload {
    /// Offsets in the payload, in bytes.
    public enum Field {
        /// Number of regions, a u32.
        public static let count = 0
        /// Four bytes of 0.
        public static let padding = 4
        /// The first region; the others follow without gaps.
        public static let regions = 8
    }
    /// The regions, in the order of the descriptors that come with the message.
    public let regions: [MemoryRegion]

    /// A table that is to be sent, of at most `VhostUserLimits.maxTableRegions` regions; more are for ADD_MEM_REG.
    public init(_ regions: [MemoryRegion]) { self.regions = regions }

    /// Bytes behind the last region are allowed as far as a full table goes: some front-ends send all 8 regions, used
    /// or not. Throws `.tooManyRegions` for more than 8, `.wrongSize` for a payload that is too short or longer than a
    /// full table, and `.regionOverflows`.
    public init(decoding payload: [UInt8]) throws(WireError) {
        guard let count = payload.native(UInt32.self, at: Field.count), payload.count >= Field.regions else {
            throw .wrongSize(.memoryTable, bytes: payload.count)
        }
        guard count <= UInt32(VhostUserLimits.maxTableRegions) else { throw .tooManyRegions(count) }
        let needed = Field.regions + Int(count) * MemoryRegion.bytes
        let whole = Field.regions + VhostUserLimits.maxTableRegions * MemoryRegion.bytes
        guard payload.count >= needed, payload.count <= whole else {
            throw .wrongSize(.memoryTable, bytes: payload.count)
        }
        var regions: [MemoryRegion] = []
        for i in 0..<Int(count) {
            let place = Field.regions + i * MemoryRegion.bytes
            regions.append(try MemoryRegion(decoding: payload, at: place, .memoryTable))
        }
        self.regions = regions
    }

    /// 8 bytes, then 32 for each region.
    public var encoded: [UInt8] {
        var bytes: [UInt8] = []
        bytes.append(native: UInt32(truncatingIfNeeded: regions.count))
        bytes.append(native: UInt32(0))
        for region in regions { region.append(to: &bytes) }
        return bytes
    }
}

/// ADD_MEM_REG and REM_MEM_REG: one region (specification: "Single memory region description"). A region to be removed
/// is identified by its guest address, size and user address.
@frozen public struct SingleRegion: WirePayload, BitwiseCopyable {
    /// Bytes of the payload.
    public static let bytes = 40
    /// Offsets in the payload, in bytes.
    public enum Field {
        /// Eight bytes of 0.
        public static let padding = 0
        /// The region.
        public static let region = 8
    }
    /// The region to add or to remove.
    public let region: MemoryRegion

    /// A payload that is to be sent. Nothing is checked.
    public init(_ region: MemoryRegion) { self.region = region }

    /// Throws `.wrongSize` unless the payload has exactly 40 bytes, and `.regionOverflows`.
    public init(decoding payload: [UInt8]) throws(WireError) {
        guard payload.count == Self.bytes else { throw .wrongSize(.memoryRegion, bytes: payload.count) }
        region = try MemoryRegion(decoding: payload, at: Field.region, .memoryRegion)
    }

    /// The 40 bytes of the payload.
    public var encoded: [UInt8] {
        var bytes: [UInt8] = []
        bytes.append(native: UInt64(0))
        region.append(to: &bytes)
        return bytes
    }
}
