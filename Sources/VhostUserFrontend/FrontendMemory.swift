// The memory that a virtual machine would have: shared files mapped here and there, at guest addresses that are
// neither the one nor the other. A driver allocates from it.
import Glibc
import LinuxIO
import SystemPackage
public import VhostUserWire
public import Virtqueue

/// Guest memory, shared with a back-end. The regions' files begin at different offsets, so that a back-end which
/// ignores them fails.
public final class FrontendMemory {
    /// One file and its mapping.
    private final class File {
        let memory: SharedMemory
        init(_ memory: consuming SharedMemory) { self.memory = memory }
    }

    /// As the driver sees it: guest addresses, and pointers to them.
    public let guest: DriverMemory
    /// As the back-end is told, with the descriptors beside them.
    public let regions: [MemoryRegion]
    /// The regions' files, in the order of `regions`; they stay owned by this object.
    public var descriptors: [Int32] { files.map { $0.memory.fd } }
    private let files: [File]

    /// Creates and maps a file for each region, of `bytes` bytes at the guest address `guest`. Throws `.system`.
    public init(_ wanted: [(guest: UInt64, bytes: Int)]) throws(FrontendError) {
        var files: [File] = []
        var mapped: [GuestRegion] = []
        var told: [MemoryRegion] = []
        for (i, region) in wanted.enumerated() {
            let offset = i * 4096
            let file: File
            do throws(Errno) {
                file = File(try SharedMemory("qblk-guest-\(i)", count: region.bytes + offset))
            } catch {
                throw .system("cannot make \(region.bytes) bytes of shared memory", error)
            }
            let host = unsafe file.memory.pointer + offset
            let user = UInt64(UInt(bitPattern: host))
            files.append(file)
            unsafe mapped.append(
                GuestRegion(guest: GuestAddress(region.guest), size: UInt64(region.bytes), user: user, host: host))
            told.append(
                MemoryRegion(
                    guestAddress: region.guest, size: UInt64(region.bytes), userAddress: user,
                    mmapOffset: UInt64(offset)))
        }
        self.files = files
        guest = DriverMemory(adopting: mapped)
        regions = told
    }

    /// The user address of a guest address, as SET_VRING_ADDR wants it; 0 for one outside the memory.
    public func user(_ address: UInt64) -> UInt64 {
        unsafe guest.host(address).map { UInt64(UInt(bitPattern: $0)) } ?? 0
    }
}
