// Why this file exists: files and buffers that the kernel knows beforehand spare it a look-up and the pinning of pages
// in every request: a fifth of the CPU time of direct I/O. All of it is optional; callers go on without on an error.
public import CQblk
import Glibc
public import SystemPackage

extension Ring {
    /// Lets requests name these files by their index, with `Flag.fixedFile`. -1 keeps an index free. Once per ring.
    public func registerFiles(_ fds: [Int32]) throws(Errno) {
        let result = qb_ring_register_files(ring, fds, UInt32(fds.count))
        if result < 0 { throw Errno(rawValue: 0 &- result) }
    }

    /// Pins memory for `prepareReadFixed` and `prepareWriteFixed`, until the ring goes. Counts against the limit on
    /// locked memory. Once per ring.
    public func registerBuffers(_ buffers: [UnsafeMutableRawBufferPointer]) throws(Errno) {
        let vector = buffers.map { iovec(iov_base: $0.baseAddress, iov_len: $0.count) }
        let result = qb_ring_register_buffers(ring, vector, UInt32(vector.count))
        if result < 0 { throw Errno(rawValue: 0 &- result) }
    }

    /// `buffer` and `count` must lie within registered buffer number `index`.
    @inlinable public func prepareReadFixed(
        fd: Int32, buffer: UnsafeMutableRawPointer, count: UInt32, offset: UInt64, index: UInt16, userData: UInt64,
        flags: UInt8 = 0
    ) -> Bool {
        fill(QB_OP_READ_FIXED, fd, address(buffer), count, offset, userData, flags, buffer: index)
    }

    /// `buffer` and `count` must lie within registered buffer number `index`.
    @inlinable public func prepareWriteFixed(
        fd: Int32, buffer: UnsafeRawPointer, count: UInt32, offset: UInt64, index: UInt16, userData: UInt64,
        flags: UInt8 = 0
    ) -> Bool {
        fill(QB_OP_WRITE_FIXED, fd, address(buffer), count, offset, userData, flags, buffer: index)
    }
}
