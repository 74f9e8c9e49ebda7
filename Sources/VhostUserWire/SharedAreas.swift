// Two areas of shared files that are no guest memory: the record of requests in flight, and the log of dirty pages.

/// GET_INFLIGHT_FD (asked with the two counts, answered with all of it and a descriptor) and SET_INFLIGHT_FD.
@frozen public struct InflightDescription: WirePayload, BitwiseCopyable {
    /// The structure and the padding behind it that C compilers add: QEMU sends and expects 24 bytes.
    public static let bytes = 24
    /// The structure as the specification lists it.
    public static let packedBytes = 20
    public enum Field {
        public static let mmapSize = 0
        public static let mmapOffset = 8
        public static let queueCount = 16
        public static let queueSize = 18
    }
    public let mmapSize: UInt64
    public let mmapOffset: UInt64
    public let queueCount: UInt16
    public let queueSize: UInt16

    public init(mmapSize: UInt64, mmapOffset: UInt64, queueCount: UInt16, queueSize: UInt16) {
        self.mmapSize = mmapSize
        self.mmapOffset = mmapOffset
        self.queueCount = queueCount
        self.queueSize = queueSize
    }

    public init(decoding payload: [UInt8]) throws(WireError) {
        guard payload.count == Self.bytes || payload.count == Self.packedBytes,
            let size = payload.native(UInt64.self, at: Field.mmapSize),
            let offset = payload.native(UInt64.self, at: Field.mmapOffset),
            let queues = payload.native(UInt16.self, at: Field.queueCount),
            let length = payload.native(UInt16.self, at: Field.queueSize)
        else { throw .wrongSize(.inflight, bytes: payload.count) }
        guard !offset.addingReportingOverflow(size).overflow else { throw .areaOverflows(.inflight) }
        self.init(mmapSize: size, mmapOffset: offset, queueCount: queues, queueSize: length)
    }

    public var encoded: [UInt8] {
        var bytes: [UInt8] = []
        bytes.append(native: mmapSize)
        bytes.append(native: mmapOffset)
        bytes.append(native: queueCount)
        bytes.append(native: queueSize)
        bytes.append(native: UInt32(0))
        return bytes
    }
}

/// SET_LOG_BASE with LOG_SHMFD: where the dirty log lies in the file that comes along.
@frozen public struct LogDescription: WirePayload, BitwiseCopyable {
    public static let bytes = 16
    public enum Field {
        public static let mmapSize = 0
        public static let mmapOffset = 8
    }
    public let mmapSize: UInt64
    public let mmapOffset: UInt64

    public init(mmapSize: UInt64, mmapOffset: UInt64) {
        self.mmapSize = mmapSize
        self.mmapOffset = mmapOffset
    }

    public init(decoding payload: [UInt8]) throws(WireError) {
        guard payload.count == Self.bytes, let size = payload.native(UInt64.self, at: Field.mmapSize),
            let offset = payload.native(UInt64.self, at: Field.mmapOffset)
        else { throw .wrongSize(.log, bytes: payload.count) }
        guard !offset.addingReportingOverflow(size).overflow else { throw .areaOverflows(.log) }
        self.init(mmapSize: size, mmapOffset: offset)
    }

    public var encoded: [UInt8] {
        var bytes: [UInt8] = []
        bytes.append(native: mmapSize)
        bytes.append(native: mmapOffset)
        return bytes
    }
}
