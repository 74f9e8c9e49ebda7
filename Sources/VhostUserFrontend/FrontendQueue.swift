// What a front-end tells a back-end about one queue: where its ring is, where the back-end begins in it, and the three
// event descriptors. The driver of the ring is another type: the mock's, or the benchmark's.
public import LinuxIO
import SystemPackage

/// The three areas of one ring (virtio 1.3, section 2.6), by guest addresses.
public struct RingAreas: Sendable, BitwiseCopyable {
    /// Entries of the ring.
    public let size: Int
    /// Descriptor table (split) or ring (packed).
    public let descriptors: UInt64
    /// Available ring (split) or the driver's event suppression (packed).
    public let driver: UInt64
    /// Used ring (split) or the device's event suppression (packed).
    public let device: UInt64

    /// Areas that a driver has allocated; nothing is checked.
    public init(size: Int, descriptors: UInt64, driver: UInt64, device: UInt64) {
        self.size = size
        self.descriptors = descriptors
        self.driver = driver
        self.device = device
    }
}

/// One queue of a front-end.
public final class FrontendQueue {
    /// The queue's number, from 0.
    public let index: Int
    /// Where the ring is.
    public let areas: RingAreas
    /// The eventfd by which the driver announces requests (SET_VRING_KICK).
    public let kick: EventFD
    /// The eventfd by which the back-end announces answers (SET_VRING_CALL).
    public let call: EventFD
    /// The eventfd by which the back-end announces that the ring is broken (SET_VRING_ERR).
    public let failure: EventFD
    /// Where the back-end shall begin: the number of SET_VRING_BASE (formats/vhost-user/README.md). `stop` sets it.
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

    /// `base` of a split ring that is new.
    public static let splitStart: UInt32 = 0
    /// `base` of a packed ring that is new: both positions 0, both wrap counters set.
    public static let packedStart: UInt32 = 0x8000_8000
}
