// The guest's memory as the front-end describes it. Sums of these numbers are what a careless back-end overflows, so
// a region that decodes has three ends that are 64-bit numbers.

/// A range of guest memory, inside a shared file.
@frozen public struct MemoryRegion: Equatable, Sendable, BitwiseCopyable {
    public static let bytes = 32
    public enum Field {
        public static let guestAddress = 0
        public static let size = 8
        public static let userAddress = 16
        public static let mmapOffset = 24
    }
    /// Where the guest sees it.
    public let guestAddress: UInt64
    public let size: UInt64
    /// Where the front-end sees it: rings are given in these.
    public let userAddress: UInt64
    /// Where it begins in the file.
    public let mmapOffset: UInt64

    public init(guestAddress: UInt64, size: UInt64, userAddress: UInt64, mmapOffset: UInt64) {
        self.guestAddress = guestAddress
        self.size = size
        self.userAddress = userAddress
        self.mmapOffset = mmapOffset
    }

    /// The region at `offset` of a payload that has been found long enough.
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

/// SET_MEM_TABLE: all regions at once, a descriptor each.
public struct MemoryTable: WirePayload {
    public enum Field {
        public static let count = 0
        public static let padding = 4
        public static let regions = 8
    }
    public let regions: [MemoryRegion]

    /// At most `VhostUserLimits.maxTableRegions`; more are for ADD_MEM_REG.
    public init(_ regions: [MemoryRegion]) { self.regions = regions }

    /// Bytes behind the last region are allowed as far as a full table goes: some front-ends send it whole.
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

    public var encoded: [UInt8] {
        var bytes: [UInt8] = []
        bytes.append(native: UInt32(truncatingIfNeeded: regions.count))
        bytes.append(native: UInt32(0))
        for region in regions { region.append(to: &bytes) }
        return bytes
    }
}

/// ADD_MEM_REG and REM_MEM_REG: one region. A region to remove is named by guest address, size and user address.
@frozen public struct SingleRegion: WirePayload, BitwiseCopyable {
    public static let bytes = 40
    public enum Field {
        public static let padding = 0
        public static let region = 8
    }
    public let region: MemoryRegion

    public init(_ region: MemoryRegion) { self.region = region }

    public init(decoding payload: [UInt8]) throws(WireError) {
        guard payload.count == Self.bytes else { throw .wrongSize(.memoryRegion, bytes: payload.count) }
        region = try MemoryRegion(decoding: payload, at: Field.region, .memoryRegion)
    }

    public var encoded: [UInt8] {
        var bytes: [UInt8] = []
        bytes.append(native: UInt64(0))
        region.append(to: &bytes)
        return bytes
    }
}
