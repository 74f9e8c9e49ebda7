// One method per operation that qblk submits. Each fills one entry and returns false only when no entry can be had;
// then the caller keeps its slot and tries after the next drain.
public import CQblk

extension Ring {
    /// IOSQE_* flags for the `flags` argument.
    public enum Flag {
        /// Go straight to a kernel worker thread, for what is known to block.
        @inlinable public static var async: UInt8 { QB_SQE_ASYNC }
        /// The next entry starts when this one succeeded.
        @inlinable public static var link: UInt8 { QB_SQE_LINK }
        /// `fd` is an index into the registered files.
        @inlinable public static var fixedFile: UInt8 { QB_SQE_FIXED_FILE }
    }

    @inlinable @inline(__always) func fill(
        _ opcode: UInt8, _ fd: Int32, _ address: UInt64, _ length: UInt32, _ offset: UInt64, _ userData: UInt64,
        _ flags: UInt8, opFlags: UInt32 = 0, buffer: UInt16 = 0
    ) -> Bool {
        guard let entry = unsafe entry() else { return false }
        unsafe entry.pointee.opcode = opcode
        unsafe entry.pointee.flags = flags
        unsafe entry.pointee.fd = fd
        unsafe entry.pointee.offset = offset
        unsafe entry.pointee.address = address
        unsafe entry.pointee.length = length
        unsafe entry.pointee.op_flags = opFlags
        unsafe entry.pointee.user_data = userData
        unsafe entry.pointee.buffer_index = buffer
        return true
    }

    @inlinable @inline(__always) func address(_ pointer: UnsafeRawPointer) -> UInt64 {
        UInt64(UInt(bitPattern: pointer))
    }

    /// Reads `count` bytes at `offset` of the file. The memory must stay put until completed.
    @inlinable public func prepareRead(
        fd: Int32, buffer: UnsafeMutableRawPointer, count: UInt32, offset: UInt64, userData: UInt64, flags: UInt8 = 0
    ) -> Bool {
        unsafe fill(QB_OP_READ, fd, address(buffer), count, offset, userData, flags)
    }

    /// The vector must stay put until submitted; the memory it names until completed.
    @inlinable public func prepareReadv(
        fd: Int32, iovecs: UnsafePointer<iovec>, count: UInt32, offset: UInt64, userData: UInt64, flags: UInt8 = 0
    ) -> Bool {
        unsafe fill(QB_OP_READV, fd, address(iovecs), count, offset, userData, flags)
    }

    /// `durable`: on the medium before it completes.
    @inlinable public func prepareWrite(
        fd: Int32, buffer: UnsafeRawPointer, count: UInt32, offset: UInt64, userData: UInt64, flags: UInt8 = 0,
        durable: Bool = false
    ) -> Bool {
        unsafe fill(
            QB_OP_WRITE, fd, address(buffer), count, offset, userData, flags, opFlags: durable ? QB_RWF_DSYNC : 0)
    }

    /// The vector must stay put until submitted; the memory it names until completed.
    @inlinable public func prepareWritev(
        fd: Int32, iovecs: UnsafePointer<iovec>, count: UInt32, offset: UInt64, userData: UInt64, flags: UInt8 = 0,
        durable: Bool = false
    ) -> Bool {
        unsafe fill(
            QB_OP_WRITEV, fd, address(iovecs), count, offset, userData, flags, opFlags: durable ? QB_RWF_DSYNC : 0)
    }

    /// fsync, or fdatasync with `dataOnly`.
    @inlinable public func prepareFsync(fd: Int32, dataOnly: Bool, userData: UInt64, flags: UInt8 = 0) -> Bool {
        fill(QB_OP_FSYNC, fd, 0, 0, 0, userData, flags, opFlags: dataOnly ? QB_FSYNC_DATA_ONLY : 0)
    }

    /// fallocate with one of `HostFile.Allocation`'s modes.
    @inlinable public func prepareFallocate(
        fd: Int32, mode: Int32, offset: UInt64, length: UInt64, userData: UInt64, flags: UInt8 = 0
    ) -> Bool {
        // The kernel takes the length where others have the address, and the mode where others have the length.
        fill(QB_OP_FALLOCATE, fd, length, UInt32(bitPattern: mode), offset, userData, flags)
    }

    /// One shot: completes with the events that came (POLLIN and so on).
    @inlinable public func preparePollAdd(fd: Int32, events: UInt32, userData: UInt64, flags: UInt8 = 0) -> Bool {
        fill(QB_OP_POLL_ADD, fd, 0, 0, 0, userData, flags, opFlags: events)
    }

    /// Cancels the request whose user data is `target`; both complete (the target perhaps with ECANCELED).
    @inlinable public func prepareCancel(userData target: UInt64, userData: UInt64, flags: UInt8 = 0) -> Bool {
        fill(QB_OP_ASYNC_CANCEL, -1, target, 0, 0, userData, flags)
    }

    /// Completes with ETIME after `time`, which must stay put until submitted.
    @inlinable public func prepareTimeout(
        _ time: UnsafePointer<timespec>, userData: UInt64, flags: UInt8 = 0
    ) -> Bool {
        unsafe fill(QB_OP_TIMEOUT, -1, address(time), 1, 0, userData, flags)
    }

    /// Does nothing and completes with 0.
    @inlinable public func prepareNop(userData: UInt64, flags: UInt8 = 0) -> Bool {
        fill(QB_OP_NOP, -1, 0, 0, 0, userData, flags)
    }
}
