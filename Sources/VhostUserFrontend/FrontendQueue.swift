// What a front-end hands over for one queue: where its rings are, where they stand, and the three event descriptors.
// Who drives the rings (the mock, or the benchmark's driver) is none of its business.
public import LinuxIO
import SystemPackage

/// The rings of one queue, by guest addresses.
public struct RingAreas: Sendable, BitwiseCopyable {
    public let size: Int
    public let descriptors: UInt64
    public let driver: UInt64
    public let device: UInt64

    public init(size: Int, descriptors: UInt64, driver: UInt64, device: UInt64) {
        self.size = size
        self.descriptors = descriptors
        self.driver = driver
        self.device = device
    }
}

/// One queue of a front-end.
public final class FrontendQueue {
    public let index: Int
    public let areas: RingAreas
    public let kick: EventFD
    public let call: EventFD
    /// The back-end signals it when it finds the ring broken.
    public let failure: EventFD
    /// Where the back-end shall begin: the number of SET_VRING_BASE. `stop` sets it.
    public var base: UInt32

    init(index: Int, areas: RingAreas, base: UInt32) throws(FrontendError) {
        do throws(Errno) {
            kick = try EventFD()
            call = try EventFD()
            failure = try EventFD()
        } catch {
            throw .system("cannot make an eventfd", error)
        }
        self.index = index
        self.areas = areas
        self.base = base
    }

    /// Split rings from their start.
    public static let splitStart: UInt32 = 0
    /// Packed rings from their start: both positions 0, both wrap counters set.
    public static let packedStart: UInt32 = 0x8000_8000
}
