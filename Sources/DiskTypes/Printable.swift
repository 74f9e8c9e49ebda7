// Why this file exists: names out of an image end on terminals and in logs, and a stranger chose them.

/// `name` with control characters replaced by `?`, and bounded in length.
public func printable(_ name: String) -> String {
    String(
        String.UnicodeScalarView(
            name.unicodeScalars.prefix(1024).map {
                $0.properties.generalCategory == .control ? "?" : $0
            }))
}
