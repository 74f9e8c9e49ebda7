// Files and buffers that the kernel knows beforehand spare it a look-up and the pinning of pages in every request: a
// fifth of the CPU time of direct I/O. All of it is optional; callers go on without on an error.
public import CQblk
import Glibc
public import SystemPackage

/// Which entries of a ring's table of registered files are free. Made with the first file; nil where there is none.
struct RegisteredFiles {
    static let count = 1024
    var free: [Int32]
}

extension Ring {
    /// Registers one more file, in a table of its own; its index, to be used with `Flag.fixedFile`, or -1 when the kernel
    /// does not want to. Not to be mixed with `registerFiles`. The ring keeps the file open until `releaseFile`.
    public func registerFile(_ fd: Int32) -> Int32 {
        if registeredFiles == nil {
            let hasTable = unsafe qb_ring_register_places(ring, UInt32(RegisteredFiles.count)) >= 0
            registeredFiles = RegisteredFiles(free: hasTable ? (0..<Int32(RegisteredFiles.count)).reversed() : [])
        }
        guard let place = registeredFiles?.free.popLast() else { return -1 }
        guard unsafe qb_ring_set_place(ring, UInt32(place), fd) >= 0 else {
            registeredFiles?.free.append(place)
            return -1
        }
        return place
    }

    /// Gives a place of `registerFile` back. Requests in flight finish.
    public func releaseFile(_ place: Int32) {
        guard place >= 0, unsafe qb_ring_set_place(ring, UInt32(place), -1) >= 0 else { return }
        registeredFiles?.free.append(place)
    }

    /// Lets requests name these files by their index, with `Flag.fixedFile`. -1 keeps an index free. Once per ring.
    public func registerFiles(_ fds: [Int32]) throws(Errno) {
        let result = unsafe qb_ring_register_files(ring, fds, UInt32(fds.count))
        if result < 0 { throw Errno(rawValue: 0 &- result) }
    }

    /// Pins memory for `prepareReadFixed` and `prepareWriteFixed`, until the ring goes. Counts against the limit on
    /// locked memory. Once per ring.
    public func registerBuffers(_ buffers: [UnsafeMutableRawBufferPointer]) throws(Errno) {
        let vector = unsafe buffers.map { unsafe iovec(iov_base: $0.baseAddress, iov_len: $0.count) }
        let result = unsafe qb_ring_register_buffers(ring, vector, UInt32(vector.count))
        if result < 0 { throw Errno(rawValue: 0 &- result) }
    }

    /// `buffer` and `count` must lie within registered buffer number `index`.
    @inlinable public func prepareReadFixed(
        fd: Int32, buffer: UnsafeMutableRawPointer, count: UInt32, offset: UInt64, index: UInt16, userData: UInt64,
        flags: UInt8 = 0
    ) -> Bool {
        unsafe fill(QB_OP_READ_FIXED, fd, address(buffer), count, offset, userData, flags, buffer: index)
    }

    /// `buffer` and `count` must lie within registered buffer number `index`.
    @inlinable public func prepareWriteFixed(
        fd: Int32, buffer: UnsafeRawPointer, count: UInt32, offset: UInt64, index: UInt16, userData: UInt64,
        flags: UInt8 = 0
    ) -> Bool {
        unsafe fill(QB_OP_WRITE_FIXED, fd, address(buffer), count, offset, userData, flags, buffer: index)
    }
}
