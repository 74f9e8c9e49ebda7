// Tests ask which way a back-end failed, people want one line that says so; both from one list.
import LinuxIO
public import SystemPackage
public import VhostUserWire
import Glibc

/// What can go wrong between a front-end and its back-end.
public enum FrontendError: Error, Equatable, Sendable {
    /// The back-end closed the connection, in the middle of this request where one was under way.
    case disconnected(FrontendRequest?)
    /// No answer within the time that was given.
    case silent(FrontendRequest)
    case system(String, Errno)
    /// What came breaks the protocol.
    case wire(WireError)
    /// An answer to another request, or without the reply bit.
    case wrongAnswer(to: FrontendRequest, code: UInt32, flags: UInt32)
    /// The back-end acknowledged with something else than 0.
    case refused(FrontendRequest, UInt64)
    /// The back-end does not offer what was asked for.
    case lacks(String)
    /// An answer that makes no sense.
    case nonsense(String)
    /// The memory of the front-end has no more room.
    case memoryFull
    /// A request was not finished within the time that was given.
    case requestLost(queue: Int)
}

extension FrontendError: CustomStringConvertible {
    public var description: String {
        switch self {
        case .disconnected(let request):
            "the back-end closed the connection" + (request.map { " on \($0)" } ?? "")
        case .silent(let request): "the back-end does not answer \(request)"
        case .system(let what, let error): "\(what): \(errorText(error.rawValue))"
        case .wire(let error): "the back-end breaks the protocol: \(error)"
        case .wrongAnswer(let request, let code, let flags):
            "the back-end answers \(request) with message \(code), flags 0x\(String(flags, radix: 16))"
        case .refused(let request, let value): "the back-end refuses \(request) (\(value))"
        case .lacks(let what): "the back-end does not offer \(what)"
        case .nonsense(let what): "the back-end says \(what)"
        case .memoryFull: "the memory shared with the back-end is full"
        case .requestLost(let queue): "a request in queue \(queue) was not answered"
        }
    }
}
