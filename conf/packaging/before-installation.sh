# Runs before the package is installed, or replaces another version.
# dpkg says "install" or "upgrade"; rpm says how many versions of the package there will be.
case ${1:-} in
install | upgrade | [1-9]*) refuse_if_newer_than "$reads" ;;
esac
exit 0
